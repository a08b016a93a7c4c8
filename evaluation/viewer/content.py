"""A group of answers as a page shows it, read from the run's files."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from sqlite3 import Row
from typing import Any

from data_tools.files import bytes_at
from data_tools.sample import Sample
from evaluation.predictions import Prediction
from evaluation.rollouts.records import Rollout
from evaluation.viewer.facts import CUT, MALFORMED, MISMATCH, UNFAITHFUL, record_of
from evaluation.viewer.index import Index, WatchError
from evaluation.viewer.segments import segments
from evaluation.viewer.sources import ROLLOUTS, SET_PREFIX, media_root

LONGEST = 20_000  # characters of a response that are shown
ELSEWHERE = 50  # other places of a question that are named, the latest ones

Medium = dict[str, str]  # `kind` (video, image) and `link`, or `missing`: why there is none
Show = Callable[[int, int, int, Path, str], Medium]  # takes run, group, number, media root, and name of a clip


def group(indexes: Sequence[Index], run: int, id: int, show: Show) -> dict[str, Any]:
    """A group: its question, what it shows, and every answer; equal rollouts are one, with their number.

    Args:
        indexes: of the runs that are watched; `elsewhere` names the same question in them.
        show: makes a clip or image of the sample ready for the page.

    Raises:
        WatchError: no such group, or its files have changed since they were read.
    """
    index, row = indexes[run], _row(indexes[run], id)
    sample, root = sample_of(index, id)
    read = _of_rollout if row["view"] == ROLLOUTS else _of_prediction
    try:
        answers = [read(each) for each in _answers(index, id)]
    except (ValueError, OSError) as error:
        raise WatchError(f"group {id} has changed since it was read ({error}): look again") from error
    return {
        **{name: row[name] for name in ("id", "view", "step", "name", "score", "spread", "right", "flipped", "twins")},
        "run": run,
        "sample": _sample(sample),
        "media": [show(run, id, number, root, name) for number, name in enumerate(sample.media)],
        "answers": answers if row["view"].startswith(SET_PREFIX) else _folded(answers),
        "twin": _twin(indexes[run], row),
        "elsewhere": _elsewhere(indexes, run, row),
    }


def sample_of(index: Index, id: int) -> tuple[Sample, Path]:
    """The sample of a group, and its media root.

    Raises:
        WatchError: no such group, or its file has changed since it was read.
    """
    row = _row(index, id)
    try:
        line = _line(row)
        sample = record_of(Sample, record_of(Rollout, line).sample if row["view"] == ROLLOUTS else line)
    except (ValueError, OSError) as error:
        raise WatchError(f"{row['path']} has changed since it was read ({error}): look again") from error
    return sample, media_root(index.run, row["view"])


def _twin(index: Index, row: Row) -> int | None:
    """The group of the same question about the turned clip, in the same step."""
    sql = "SELECT id FROM groups WHERE view = ? AND step = ? AND pair = ? AND id != ?"
    found = index.rows(sql, [row["view"], row["step"], row["pair"], row["id"]])
    return found[0]["id"] if found else None


def _row(index: Index, id: int) -> Row:
    found = index.rows("SELECT groups.*, path FROM groups JOIN files ON files.id = file WHERE groups.id = ?", [id])
    if not found:
        raise WatchError(f"group {id} is no longer there: its file has changed")
    return found[0]


def _line(row: Row) -> bytes:
    return bytes_at(Path(row["path"]), row["start"], row["length"])


def _answers(index: Index, of: int) -> list[Row]:
    sql = "SELECT answers.*, path FROM answers JOIN files ON files.id = file WHERE of = ?"
    return index.rows(f"{sql} ORDER BY rank, control, answers.id", [of])


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "options": sample.options,
        "gold": sample.gold,
        "letter": sample.answer if sample.options else None,
        "motion": sample.extras.get("motion"),
        "turn": sample.extras.get("turn"),
    }


def _of_rollout(row: Row) -> dict[str, Any]:
    record = record_of(Rollout, _line(row))
    components = {name: _told(value) for name, value in record.components.items() if name != "score"}
    return {
        **_answer(row, record.response, record.malformed and record.malformed.replace("_", " ")),
        "score": _told(record.score),
        "advantage": _told(record.advantage),
        "advantage_perception": _told(record.advantage_perception),
        "components": components,
        "verdicts": _verdicts(record),
        "tokens": record.response_tokens,
    }


def _verdicts(record: Rollout) -> dict[str, str]:
    """The judge's, of a record."""
    found, components = {}, record.components
    if "perception_accuracy" in components:
        said = "suffices" if components["perception_accuracy"] else "does not suffice"
        found["observation"] = "undecided" if components.get("unjudged") else said
    if record.mismatch is not None:
        found["thought"] = "leads to another answer" if record.mismatch else "leads to the answer"
    return found


def _of_prediction(row: Row) -> dict[str, Any]:
    record = record_of(Prediction, _line(row))
    wrong = "malformed" if row["flags"] & MALFORMED else None
    verdicts = {"thought": "leads to another answer"} if row["flags"] & MISMATCH else {}
    probabilities = record.option_probs or ({} if record.p_yes is None else {"Yes": record.p_yes})
    return {
        **_answer(row, record.response, record.error or wrong),
        "advantage": None,
        "advantage_perception": None,
        "components": {f"p({name})": _told(value) for name, value in probabilities.items()},
        "verdicts": verdicts,
        "tokens": None,
    }


def _told(value: float | None) -> float | str | None:
    """A number, or the name of one that JSON has no number for: the sign of a training that diverged."""
    return value if value is None or isfinite(value) else str(value)


def _answer(row: Row, response: str, malformed: str | None) -> dict[str, Any]:
    shown, flags = response[:LONGEST], row["flags"]
    return {
        "labels": [row["label"]],
        "control": row["control"].replace("_", " "),
        "score": row["score"],
        "right": row["right"],
        "chosen": row["chosen"],
        "malformed": malformed,
        "flags": [name for name, bit in _FLAGS.items() if flags & bit],
        "segments": segments(shown),
        "left_out": len(response) - len(shown),
    }


_FLAGS = {"malformed": MALFORMED, "mismatch": MISMATCH, "unfaithful": UNFAITHFUL, "cut": CUT}


def _folded(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers that are equal but for their labels as one."""
    found: dict[str, dict[str, Any]] = {}
    for answer in answers:
        key = json.dumps({name: value for name, value in answer.items() if name != "labels"}, sort_keys=True)
        if key in found:
            found[key]["labels"] += answer["labels"]
        else:
            found[key] = answer
    return list(found.values())


def _elsewhere(indexes: Sequence[Index], run: int, row: Mapping[str, Any] | Row) -> list[dict[str, Any]]:
    """The same question in other steps and runs."""
    found = []
    sql = "SELECT id, step, right FROM groups WHERE view = ? AND question = ? AND n > 0 ORDER BY step DESC LIMIT ?"
    for number, index in enumerate(indexes):
        for other in index.rows(sql, [row["view"], row["question"], ELSEWHERE]):
            if (number, other["id"]) != (run, row["id"]):
                found.append({"run": number, **dict(other)})
    return found

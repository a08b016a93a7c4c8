"""ShotBench: multiple choice about cinematography, about stills of films and, for camera movements, clips."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from data_tools.sample import Sample
from evaluation.benchmarks.labels import LabelError, choice_sample, literal, need, read_rows
from evaluation.benchmarks.multiple_choice import plain_choice
from evaluation.benchmarks.official import first_answer, only


def shotbench_reader(source: str) -> Callable[[Path, Sequence[str] | None], list[Sample]]:
    def read(path: Path, only: Sequence[str] | None) -> list[Sample]:
        """The TSV file `test.tsv`, or the same rows in another form; `only`: categories."""
        samples = []
        for index, row in enumerate(read_rows(path)):
            where = f"{path}: record {index}"
            options = literal(need(row, "options", where), dict, f"{where}: options")
            if list(options) != sorted(options):
                raise LabelError(f"{where}: options: letters {list(options)} are not in order")
            category = need(row, "category", where)
            samples.append(
                choice_sample(
                    where,
                    list(options.values()),
                    need(row, "answer", where),
                    id=str(row.get("index") or index),
                    **_shown(row, where),
                    question=need(row, "question", where),
                    task="choice",
                    source=source,
                    extras={"category": category, "type": category},
                )
            )
        return [sample for sample in samples if not only or sample.extras["category"] in only]

    return read


def _shown(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The clip or the images of a row, by the type that it gives each of its paths."""
    paths = [str(path) for path in literal(need(row, "path", where), list, f"{where}: path")]
    kinds = literal(need(row, "type", where), list, f"{where}: type")
    if kinds == ["video"] and len(paths) == 1:
        return {"video": paths[0]}
    if set(kinds) == {"image"} and len(kinds) == len(paths):
        return {"images": paths}
    raise LabelError(f"{where}: type: {kinds} for {len(paths)} path(s): a row is about one video, or about images")


def read_officially(response: str, sample: Sample) -> str:
    """As the publishers' calculate_scores.py, before it asks GPT-4o: the one letter that stands alone as a word of the
    first <answer>, or of the whole text where there is none; else the one option whose text is in it.

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "question": "Shot size?", "source": "shotbench", "split": "test"}
        >>> sample = Sample(**fields, task="choice", options=["Close Up", "Wide", "Medium"], answer="B")
        >>> said = ("Answer: B. Wide", "<answer>B  # it is wide</answer>", "a wide shot", "A or B")
        >>> [read_officially(response, sample) for response in said]
        ['B', 'B', 'B', '']
    """
    inner = first_answer(response)
    text = response if inner is None else inner
    words = set(text.translate(_BLANKS).split())
    letters = ascii_uppercase[: len(sample.options)]
    if named := [letter for letter in letters if letter in words]:
        named = named if len(named) == 1 else []
    elif "Z" in words:  # what the script takes for a refusal
        return ""
    texts = [letter for letter, option in zip(letters, sample.options) if option.lower() in text.lower()]
    return only(named or texts)


_BLANKS = str.maketrans({mark: " " for mark in ".()[],:;!*#{}"})

SHOTBENCH = plain_choice(
    "shotbench",
    "ShotBench",
    shotbench_reader("shotbench"),
    ["category"],
    note="official: calculate_scores.py; what it asks GPT-4o about, and then takes a random option for, is wrong here",
    official=read_officially,
)

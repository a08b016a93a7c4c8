"""Questions with every model's response, as a few chosen examples and as a list to browse."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.sample import Sample
from evaluation.grading import Graded
from evaluation.report.clips import STRIP_HEIGHT, Clips
from evaluation.report.load import SetInputs
from evaluation.report.verdict import ADDED
from evaluation.runs import Model

EXAMPLES_PER_KIND = 6
BROWSED, BROWSED_CLIPS = 1000, 500  # questions, and clips with frames, that can be browsed on a page


def examples(chosen: SetInputs, clips: Clips, sets: int = 1) -> list[dict[str, Any]]:
    """A few samples of each kind, as many different motions as there are, with every model's graded response.

    Args:
        sets: on the page, which share its room.
    """
    models = chosen.models
    groups: dict[str, list[tuple[Graded, ...]]] = {kind: [] for kind in _kinds(models)}
    for graded in zip(*chosen.measured.graded):
        groups[_kind(models, graded)].append(graded)
    return [
        {
            "kind": kind,
            "order": order,
            "of": len(group),
            "sample": graded[0].sample,
            "gold": graded[0].sample.gold,
            "clip": _clip(chosen, graded[0].sample, clips),
            "answers": list(zip(models, graded)),
        }
        for order, (kind, group) in enumerate(groups.items())
        for graded in _spread(group)[: max(2, EXAMPLES_PER_KIND // sets)]
    ]


def browser(chosen: SetInputs, clips: Clips, sets: int = 1, browsed: int = BROWSED) -> dict[str, Any]:
    """Every question with every model's answer and what kind of error it is; frames of the first clips.

    Questions that some model got wrong come first where there are more than `browsed`, which the sets of a page share.
    """
    rows = sorted(zip(*chosen.measured.graded), key=lambda row: all(j.right for j in row))[: browsed // sets]
    shown = {row[0].sample.shown: row[0].sample for row in rows}
    items = [_item(row) for row in rows]
    kinds = Counter(kind for item in items for answer in item["answers"] for kind in answer["kinds"])
    return {
        "models": [model.name for model in chosen.models],
        "items": items,
        "clips": {
            name: _clip(chosen, sample, clips, STRIP_HEIGHT // 2, quality=70)
            for name, sample in list(shown.items())[: BROWSED_CLIPS // sets]
        },
        "kinds": [kind for kind, _ in kinds.most_common()],
        "of": len(chosen.measured.samples),
    }


def _clip(
    chosen: SetInputs, sample: Sample, clips: Clips, height: int = STRIP_HEIGHT, quality: int = 90
) -> dict[str, str | None]:
    """What a sample shows: frames of its clip, or its images."""
    paths = chosen.paths(sample)
    if sample.images:
        return clips.images(paths, chosen.stage, height, quality)
    return clips.shown(paths[0], chosen.stage, height, quality)


def _item(row: Sequence[Graded]) -> dict[str, Any]:
    sample = row[0].sample
    return {
        "id": sample.id,
        "video": sample.shown,
        "task": sample.task,
        "question": sample.question,
        "options": sample.options,
        "right": sample.answer_text if sample.options else None,
        "gold": sample.gold,
        "motion": sample.extras.get("motion"),
        "answers": [_answer(j) for j in row],
    }


def _answer(j: Graded) -> dict[str, Any]:
    kinds: list[str] = [j.outcome.replace("_", " ")]
    motion = j.sample.extras.get("motion")
    if j.right and motion and j.parsed.observation and j.stated != motion:
        kinds.append("right, observation false")
    if not j.right and j.stated and j.stated == motion:
        kinds.append("wrong, observation true")
    if j.outcome == "wrong" and j.sample.extras.get("confusable"):
        kinds.append("confusable")
    if j.truncated:
        kinds.append("cut")
    parts = j.parsed.parts if j.parsed.ok else {"response": j.response}
    return {"kinds": kinds, "reason": j.reason, "value": round(j.value, 3), "parts": parts}


def _kinds(models: Sequence[Model]) -> tuple[str, ...]:
    if len(models) == 1:
        return "right", "wrong"
    before, after = models[-2:]
    added = ADDED.get(after.stage)
    if added:
        return f"fixed by {added}", f"broken by {added}", "both wrong", "both right"
    return f"only {after.name} right", f"only {before.name} right", "both wrong", "both right"


def _kind(models: Sequence[Model], graded: Sequence[Graded]) -> str:
    kinds, after = _kinds(models), graded[-1].right
    if len(models) == 1:
        return kinds[not after]
    before = graded[-2].right
    return kinds[{(False, True): 0, (True, False): 1, (False, False): 2, (True, True): 3}[before, after]]


def _spread(group: Sequence[tuple[Graded, ...]]) -> list[tuple[Graded, ...]]:
    """The group in an order that shows each motion once before it shows one twice."""
    seen: Counter[str] = Counter()
    rounds = []
    for graded in group:
        motion = graded[0].sample.extras.get("motion", "")
        rounds.append(seen[motion])
        seen[motion] += 1
    return [group[i] for i in np.argsort(rounds, kind="stable")]

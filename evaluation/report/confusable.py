"""Confusable camera motions: what the observation claims beside what the answer says.

For a clip that shows one motion of a pair (pan/truck, tilt/pedestal, zoom/dolly, cw/ccw), a question about either of
the two is a choice between them: Yes says the motion asked for, No the other one.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.grading import Graded, counts
from evaluation.measures.bootstrap import Estimate, Resamples, estimate
from evaluation.table import Metric, Row, Table
from rewards.motions import NAMES, PRIMITIVES, confusable

_OF_NAME = {name: motion for motion, name in NAMES.items()}
_WORDS = {  # free text: verbs of each kind of movement
    "pan": r"pan(?:s|ned|ning)?",
    "truck": r"truck(?:s|ed|ing)?",
    "tilt": r"tilt(?:s|ed|ing)?",
    "pedestal": r"(?:pedestal|boom|crane)(?:s|ed|ing)?",
    "zoom": r"zoom(?:s|ed|ing)?",
    "dolly": r"(?:doll(?:y|ies|ied|ying)|push(?:es|ed|ing)?|pull(?:s|ed|ing)?)",
    "roll": r"roll(?:s|ed|ing)?",
}
_ENDS = {
    "left": r"left(?:wards?)?",
    "right": r"right(?:wards?)?",
    "up": r"up(?:wards?)?",
    "down": r"down(?:wards?)?",
    "in": r"(?:in(?:wards?)?|forwards?)",
    "out": r"(?:out(?:wards?)?|backwards?|back)",
    "cw": r"(?<!counter)(?<!counter-)(?<!anti-)(?<!anti)(?:clockwise|cw)",
    "ccw": r"(?:(?:counter|anti)-?clockwise|ccw)",
}
_NAMED = {
    motion: re.compile(rf"\b{_WORDS[kind]}\b(?:\s+\w+){{0,3}}?\s+{_ENDS[end]}\b")
    for motion in PRIMITIVES
    for kind, _, end in [motion.partition("_")]
    if end
}
_DENIED = re.compile(r"\b(?:no|not|without|neither|nor|rather than|instead of|never)\b[^.,;]*")


def named_motion(text: str) -> str | None:
    """The single motion that free text names, denials left out; None where it names none or several.

    Example:
        >>> named_motion("The camera pans slowly to the left, it does not truck.")
        'pan_left'
    """
    words = _DENIED.sub(" ", " ".join(text.lower().split()))
    found = {motion for motion, pattern in _NAMED.items() if pattern.search(words)}
    if not found and re.search(r"\b(?:static|still|stationary|fixed)\b", words):
        found = {"static"}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Case:
    """One answer about a clip of a pair's motion.

    Attributes:
        index: of its graded response.
        shown: what the camera does.
        other: the motion that it is confusable with.
        said: the motion that the answer says; None where it says neither of the pair.
        claimed: the motion that the observation states or names; None where it names none.
    """

    index: int
    video: str
    shown: str
    other: str
    said: str | None
    claimed: str | None


def cases(graded: Sequence[Graded]) -> list[Case]:
    """Answers about confusable motions: Yes/No questions that ask for one of a pair, and choices that offer both."""
    pairs_by_video = _pairs(graded)
    found = []
    for index, j in enumerate(graded):
        for shown, other in pairs_by_video.get(j.sample.shown, []):
            asked = j.sample.extras.get("asked")
            if j.sample.task == "binary" and asked in (shown, other):
                said = {"yes": asked, "no": other if asked == shown else shown}.get((j.chosen or "").casefold())
            elif j.sample.task == "choice" and {NAMES[shown], NAMES[other]} <= set(j.sample.options):
                said = _OF_NAME.get(j.chosen or "")
            else:
                continue
            claimed = j.stated or named_motion(j.parsed.observation or "")
            found.append(Case(index, j.sample.shown, shown, other, said, claimed))
    return found


def _pairs(graded: Sequence[Graded]) -> dict[str, list[tuple[str, str]]]:
    """Video -> (motion shown, motion confusable with it): its known motion, or those whose question is answered Yes.

    A pair of which both are shown is left out: there is nothing to confuse.
    """
    shown: dict[str, set[str]] = defaultdict(set)
    for j in graded:
        extras = j.sample.extras
        if "motion" in extras:
            shown[j.sample.shown].add(extras["motion"])
        elif j.sample.task == "binary" and extras.get("asked") and j.sample.answer_text.casefold() == "yes":
            shown[j.sample.shown].add(extras["asked"])
    return {
        video: [(m, other) for m in sorted(motions) if (other := confusable(m)) and other not in motions]
        for video, motions in shown.items()
    }


IN_PAIRS = tuple(dict.fromkeys(m for motion in PRIMITIVES if (other := confusable(motion)) for m in (motion, other)))
COLUMNS = (
    "answer: shown",
    "answer: confusable",
    "answer: neither",
    "observation: shown",
    "observation: confusable",
    "observation: other or none",
    "agree",
)


def matrices(models: Mapping[str, Sequence[Graded]]) -> list[dict[str, Any]]:
    """Shares of each of COLUMNS by the motion shown, pairs side by side; empty without such questions.

    Returns:
        per motion: `motion`, the `other` of its pair, `n` answers, and `shares`, model -> column -> share.
    """
    rows: dict[str, dict[str, Any]] = {}
    for model, graded in models.items():
        by_motion = defaultdict(list)
        for case in cases(graded):
            by_motion[case.shown, case.other].append(_indicators(case))
        for (motion, other), found in by_motion.items():
            row = rows.setdefault(motion, {"motion": motion, "other": other, "n": len(found), "shares": {}})
            row["shares"][model] = dict(zip(COLUMNS, np.mean(found, axis=0).tolist()))
    return [rows[motion] for motion in IN_PAIRS if motion in rows]


def confusable_table(
    models: Mapping[str, Sequence[Graded]], settings: str, seed: int = 0, name: str = "confusable"
) -> Table | None:
    """One row per model and motion shown; None where no question is about confusable motions."""
    found = {model: cases(graded) for model, graded in models.items()}
    rows, interval = [], ""
    for model, model_cases in found.items():
        if not model_cases:
            continue
        resamples = Resamples([case.video for case in model_cases], seed)
        interval = resamples.caption("clips")
        columns = np.array([_indicators(case) for case in model_cases], float)
        shown = np.array([case.shown for case in model_cases], dtype=object)
        for motion, other in sorted(
            {(case.shown, case.other) for case in model_cases}, key=lambda pair: IN_PAIRS.index(pair[0])
        ):
            members = (shown == motion)[:, None]
            values = [estimate(resamples.means(column, members)[:, 0]) for column in columns.T]
            count = counts(models[model][case.index] for case in model_cases if case.shown == motion)
            label = f"{model} · {NAMES[motion]} (or {NAMES[other]})"
            rows.append(Row(label, tuple(values), count.n, count.failures, count.malformed))
    if not rows:
        return None
    rows.append(_constant(max(map(len, found.values()))))
    return Table(
        name=name,
        title="Confusable motions: what the answer says, and what the observation claims",
        metrics=tuple(Metric(column, "micro: over answers about clips of the motion shown") for column in COLUMNS),
        rows=tuple(rows),
        interval=interval,
        settings=settings,
        note="Yes says the motion asked for, No the other one of its pair. 'agree': answer and observation say the "
        "same motion",
    )


def _indicators(case: Case) -> list[bool]:
    return [
        case.said == case.shown,
        case.said == case.other,
        case.said not in (case.shown, case.other),
        case.claimed == case.shown,
        case.claimed == case.other,
        case.claimed not in (case.shown, case.other),
        case.said is not None and case.said == case.claimed,
    ]


def _constant(n: int) -> Row:
    """A constant answer says each of the two motions equally often at best."""
    half = Estimate(0.5)
    values = (half, half, Estimate(0.0), *[None] * 4)
    return Row("constant answer, as many of both asked", values, n, 0, 0, "baseline")

"""Look-alike camera motions: what the observation claims beside what the answer says.

For a clip that shows one motion of a pair (pan/truck, tilt/pedestal, zoom/dolly, cw/ccw), a question about either of
the two is a choice between them: Yes says the motion asked for, No the other one.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.answers import Judgement
from evaluation.bootstrap import Estimate, Resamples, estimate
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
    """The single motion that free text names ("the camera pans slowly to the left"), denials left out; else None."""
    words = _DENIED.sub(" ", " ".join(text.lower().split()))
    found = {motion for motion, pattern in _NAMED.items() if pattern.search(words)}
    if not found and re.search(r"\b(?:static|still|stationary|fixed)\b", words):
        found = {"static"}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Case:
    """One answer about a clip of a pair's motion.

    Attributes:
        shown: what the camera does.
        said: the motion that the answer says, None where it says neither of the pair.
        claimed: the motion that the observation states or names, None where it does none.
    """

    index: int
    video: str
    shown: str
    said: str | None
    claimed: str | None


def cases(judgements: Sequence[Judgement]) -> list[Case]:
    """Answers about look-alikes: Yes/No questions that ask for either of a pair, and choices that offer both."""
    shown_by_video = _shown(judgements)
    found = []
    for index, j in enumerate(judgements):
        asked = j.sample.extras.get("asked")
        for shown in shown_by_video[j.sample.video]:
            other = confusable(shown)
            if j.sample.task == "binary" and asked in (shown, other):
                answer = {"yes": asked, "no": confusable(asked)}.get((j.chosen or "").casefold())
            elif j.sample.task == "choice" and {NAMES[shown], NAMES[other]} <= set(j.sample.options):
                answer = _OF_NAME.get(j.chosen)
            else:
                continue
            observed = j.parsed.observation or ""
            claimed = j.stated or named_motion(observed)
            found.append(Case(index, j.sample.video, shown, answer, claimed))
    return found


def _shown(judgements: Sequence[Judgement]) -> Mapping[str, list[str]]:
    """Motions of each video that have a look-alike: its known one, or those whose question is answered Yes.

    Where both of a pair are shown there is nothing to confuse.
    """
    shown: dict[str, set[str]] = defaultdict(set)
    for j in judgements:
        extras = j.sample.extras
        if "motion" in extras:
            shown[j.sample.video].add(extras["motion"])
        elif j.sample.task == "binary" and extras.get("asked") and j.sample.answer_text.casefold() == "yes":
            shown[j.sample.video].add(extras["asked"])
    kept = {video: [m for m in ms if confusable(m) and confusable(m) not in ms] for video, ms in shown.items()}
    return defaultdict(list, {video: sorted(motions) for video, motions in kept.items()})


IN_PAIRS = tuple(dict.fromkeys(m for motion in PRIMITIVES if confusable(motion) for m in (motion, confusable(motion))))
COLUMNS = (
    "answer: shown",
    "answer: look-alike",
    "answer: neither",
    "observation: shown",
    "observation: look-alike",
    "observation: other or none",
    "agree",
)


def matrices(models: Mapping[str, Sequence[Judgement]]) -> list[dict[str, Any]]:
    """Shares of each of COLUMNS by the motion shown, look-alikes one after the other; empty without such questions.

    Returns:
        per motion: `motion`, its look-alike `other`, `n` answers, and `shares`, model -> column -> share.
    """
    rows: dict[str, dict[str, Any]] = {}
    for model, judgements in models.items():
        by_motion = defaultdict(list)
        for case in cases(judgements):
            by_motion[case.shown].append(_indicators(case))
        for motion, found in by_motion.items():
            row = {"motion": motion, "other": confusable(motion), "n": len(found), "shares": {}}
            rows.setdefault(motion, row)["shares"][model] = dict(zip(COLUMNS, np.mean(found, axis=0).tolist()))
    return [rows[motion] for motion in IN_PAIRS if motion in rows]


def confusable_table(
    models: Mapping[str, Sequence[Judgement]], settings: str, seed: int = 0, name: str = "confusable"
) -> Table | None:
    """One row per model and motion shown; None where no question is about look-alikes."""
    found = {model: cases(judgements) for model, judgements in models.items()}
    if not any(found.values()):
        return None
    rows = []
    resamples = None
    for model, of in found.items():
        resamples = Resamples([case.video for case in of], seed)
        columns = np.array([_indicators(case) for case in of], float)
        shown = np.array([case.shown for case in of], dtype=object)
        for motion in [m for m in IN_PAIRS if (shown == m).any()]:
            members = (shown == motion)[:, None]
            values = [estimate(resamples.means(column, members)[:, 0]) for column in columns.T]
            judged = [models[model][case.index] for case in of if case.shown == motion]
            label = f"{model} · {NAMES[motion]} (or {NAMES[confusable(motion)]})"
            failures = sum(j.outcome in ("missing", "failed", "unjudged") for j in judged)
            malformed = sum(j.outcome in ("malformed", "no_option") for j in judged)
            rows.append(Row(label, tuple(values), len(judged), failures, malformed))
    rows.append(_always_no(next(iter(found.values()))))
    return Table(
        name=name,
        title="Look-alike motions: what the answer says, and what the observation claims",
        metrics=tuple(Metric(column, "micro: over answers about clips of the motion shown") for column in COLUMNS),
        rows=tuple(rows),
        interval=resamples.caption("clips"),
        settings=settings,
        note="Yes says the motion asked for, No its look-alike. 'agree': answer and observation say the same motion",
    )


def _indicators(case: Case) -> list[bool]:
    other = confusable(case.shown)
    return [
        case.said == case.shown,
        case.said == other,
        case.said not in (case.shown, other),
        case.claimed == case.shown,
        case.claimed == other,
        case.claimed not in (case.shown, other),
        case.said is not None and case.said == case.claimed,
    ]


def _always_no(of: Sequence[Case]) -> Row:
    """An answer that does not look says each of the two motions equally often at best."""
    half = Estimate(0.5)
    return Row(
        "constant answer, as many of both asked", (half, half, Estimate(0.0), *[None] * 4), len(of), 0, 0, "baseline"
    )

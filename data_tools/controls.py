"""Controls: the same questions on clips or options that were changed in a known way, with the label that follows.

A model that looks must fail on a blank clip, and must answer alike when clip and question are changed together: a clip
that pans left pans right in the mirror, and zooms out when time runs backwards. Mirror and reversal therefore map what
is asked (question and options) and leave the letter of the answer as it is, which holds for Yes and for No alike.
"""

import hashlib
import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal, get_args

import numpy as np

from data_tools.sample import Sample
from rewards.motions import opposite

Control = Literal["blank", "shuffled_frames", "shuffled_options", "mirrored", "reversed"]
CONTROLS: tuple[Control, ...] = get_args(Control)


class UnmappedError(ValueError):
    """A question whose label under a control is unknown; the message is the reason, in a word or two, for counting."""


def controlled(sample: Sample, control: Control, seed: int) -> Sample:
    """The sample as the control asks it, under the same id.

    Raises:
        UnmappedError: the label would be unknown.
    """
    if control == "shuffled_options":
        if not sample.options:
            raise UnmappedError("no options")
        order = shuffled(len(sample.options), f"{seed}/{sample.id}")
        answer = ascii_uppercase[order.index(ascii_uppercase.index(sample.answer))]
        return sample.model_copy(update={"options": [sample.options[place] for place in order], "answer": answer})
    if control in ("blank", "shuffled_frames"):
        return sample
    if sample.task not in ("binary", "choice"):
        raise UnmappedError(f"task {sample.task}")
    extras = {
        key: mapped_motion(value, control) if key in ("motion", "asked") else value
        for key, value in sample.extras.items()
    }
    return sample.model_copy(
        update={
            "question": mapped_text(sample.question, control),
            "options": [mapped_text(option, control, question=False) for option in sample.options],
            "extras": extras,
        }
    )


def shuffled(count: int, name: str) -> list[int]:
    """A permutation of 0 ... count - 1 that moves something (where count > 1), drawn by `name`."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    order = list(range(count))
    while count > 1 and order == list(range(count)):
        order = rng.permutation(count).tolist()
    return order


def mapped_motion(motion: str, control: Control) -> str:
    """The primitive that a clip of `motion` shows in the mirror, or backwards."""
    if control == "reversed" or motion.startswith("roll") or motion.endswith(("_left", "_right")):
        return opposite(motion) or motion
    return motion


_PAIRS = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("clockwise", "counterclockwise"),
    ("cw", "ccw"),
    ("up", "down"),
    ("upward", "downward"),
    ("upwards", "downwards"),
    ("forward", "backward"),
    ("forwards", "backwards"),
    ("in", "out"),
)
_OTHER = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
_OTHER |= {f"{counter}clockwise": "clockwise" for counter in ("counter-", "anti-", "anti")}
_TURN = r"(?:(?:counter-?|anti-?)?clockwise|c?cw)"
_SIDE = rf"(?:left|right)(?:wards?)?|{_TURN}"
_MIRRORED = re.compile(rf"\b(?:{_SIDE})\b", re.IGNORECASE)
# Backwards, only the direction of a movement turns round, not the place of a thing ("the man on the left").
_VERB = r"(?:pan(?:n(?=ed|ing))?|tilt|roll|truck|pedestal|crane|boom|track|mov|turn|rotat|slid)(?:e|es|s|ed|ing)?"
_CLOSER = r"(?:zoom(?:s|ed|ing)?|dolly(?:ing)?|dollies)"
_REVERSED = re.compile(
    rf"\b(?:(?<!\w)(?:(?:left|right|up|down|for|back)wards?|{_TURN})"
    rf"|(?P<lead>{_VERB}[\s-]+(?:(?:to|from|towards?)\s+)?(?:the\s+)?|\b(?:to|from)\s+(?:the\s+)?)"
    rf"(?P<way>left|right|up|down)(?!\s+(?:of|side))"
    rf"|(?P<closer>{_CLOSER}[\s-]+)(?P<end>in|out))\b",
    re.IGNORECASE,
)
_DIRECTION = re.compile(rf"\b(?:{_SIDE}|push\w*|pull\w*|up|down|(?:up|down|for|back)wards?)\b", re.IGNORECASE)
_ORDER = re.compile(
    r"\b(?:first|second|then|before|after(?:wards?)?|later|last|finally|next|start\w*|begin\w*|end(?:s|ing)?|until"
    r"|while|speed(?:s|ing)|faster|slower|accelerat\w*|decelerat\w*)\b",
    re.IGNORECASE,
)


def mapped_text(text: str, control: Control, question: bool = True) -> str:
    """`text` with its directions turned round as the control turns round the clip.

    Raises:
        UnmappedError: backwards, it speaks of an order of events, of something else than the camera, or of a direction
            that may be a place.
    """
    if control == "mirrored":
        return _MIRRORED.sub(lambda match: _turned(match[0]), text)
    if question and "camera" not in text.lower():
        raise UnmappedError("not about the camera")
    if _ORDER.search(text):
        raise UnmappedError("order of events")
    if not question and _MIRRORED.fullmatch(text.strip()):
        return _turned(text)
    if _DIRECTION.search(_REVERSED.sub("", text)):
        raise UnmappedError("direction or place")
    return _REVERSED.sub(_turned_back, text)


def _turned_back(match: re.Match[str]) -> str:
    lead, way = match["lead"] or match["closer"], match["way"] or match["end"]
    return lead + _turned(way) if lead else _turned(match[0])


def _turned(word: str) -> str:
    other = _OTHER[word.strip().lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[:1].isupper() else other


def skipped(reasons: Sequence[str]) -> dict[str, int]:
    """Reasons and how often each came up, most frequent first."""
    return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=lambda r: (-reasons.count(r), r))}

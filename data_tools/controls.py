"""Controls: the same questions on clips or options that were changed in a known way, with the label that follows.

A model that uses the clip must fail on a blank one, and must give the same answer when clip and question are changed
together: a clip that pans left pans right in the mirror, and a zoom in is a zoom out when time runs backwards. Mirror
and reversal therefore map the texts of question and options, and keep the letter of the answer for Yes and No alike.

A twin is the counterpart (CRPO, arXiv 2605.21988): the clip is turned and the question stays, so the answer follows.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Literal, get_args

import numpy as np

from data_tools.sample import Sample
from rewards.errors import UserError
from rewards.motions import confusable, opposite

Turn = Literal["mirrored", "reversed"]
Control = Literal["blank", "shuffled_frames", "shuffled_options", "mirrored", "reversed"]
Twin = Literal["mirrored_twin", "reversed_twin"]
CONTROLS: tuple[Control, ...] = get_args(Control)
TWINS: Mapping[Turn, Twin] = {"mirrored": "mirrored_twin", "reversed": "reversed_twin"}


class UnmappedError(UserError):
    """A question whose label under a control is unknown; the message is the reason, in a word or two, for counting."""


def controlled(sample: Sample, control: Control, seed: int) -> Sample:
    """The sample under a control, with the same id.

    Raises:
        UnmappedError: the label would be unknown.
    """
    if control == "shuffled_options":
        if not sample.options:
            raise UnmappedError("no options")
        order = shuffled(len(sample.options), f"{seed}/{sample.id}")
        answer = ascii_uppercase[order.index(ascii_uppercase.index(sample.answer))]
        return sample.model_copy(update={"options": [sample.options[index] for index in order], "answer": answer})
    if sample.images and control in ("shuffled_frames", "reversed"):
        raise UnmappedError("images have no frames")
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


Labels = Mapping[tuple[str, str], str]  # (what is shown, question) -> text of the right answer


def labels_of(samples: Iterable[Sample]) -> Labels:
    """What is known of each clip, for the twins of its questions."""
    return {_asked(sample): sample.answer_text for sample in samples if sample.task in ("binary", "choice")}


def _asked(sample: Sample) -> tuple[str, str]:
    return " ".join(map(str, sample.cuts)), sample.question


def twin(sample: Sample, turn: Turn, labels: Labels) -> Sample:
    """The same question, with the same id, about the turned clip: its answer may be another one.

    A Yes or No about a turned clip is that of the turned question about the clip as it is: of the motion that the clip
    shows, or of the set's own label.

    Args:
        labels: of the questions about the same clips (`labels_of`).

    Raises:
        UnmappedError: the answer would be unknown.

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "source": "mine", "split": "rl", "options": ["No", "Yes"]}
        >>> left = Sample(**fields, task="binary", question="Does the camera pan left?", answer="B")
        >>> right = Sample(**fields, task="binary", question="Does the camera pan right?", answer="A")
        >>> twin(left, "mirrored", labels_of([left, right])).answer_text
        'No'
    """
    turned = controlled(sample, turn, 0)
    follows = _follows(sample, turned) if sample.task == "choice" else _holds(sample, turned, labels)
    answer = [option.casefold() for option in sample.options].index(follows.casefold())
    extras = turned.extras | {key: sample.extras[key] for key in ("asked",) if key in sample.extras}
    if {"confusable", "asked", "motion"} <= extras.keys():
        extras["confusable"] = extras["asked"] == confusable(extras["motion"])
    kept = {"question": sample.question, "options": sample.options, "answer": ascii_uppercase[answer]}
    return turned.model_copy(update=kept | {"extras": extras})


def twins(samples: Sequence[Sample], turn: Turn, changed: bool = False) -> tuple[list[Sample], list[str]]:
    """The twins of samples, and for each of the others why it has none.

    Args:
        changed: leave out those whose answer stays; a fixed answer is right about both.
    """
    labels, found, reasons = labels_of(samples), [], []
    for sample in samples:
        try:
            other = twin(sample, turn, labels)
        except UnmappedError as error:
            reasons.append(str(error))
            continue
        if changed and other.answer_text == sample.answer_text:
            reasons.append("the answer stays")
        else:
            found.append(other)
    return found, reasons


def _follows(sample: Sample, turned: Sample) -> str:
    """The option that is right of the turned clip, where options rule each other out and each has its counterpart."""
    if turned.question != sample.question:
        raise UnmappedError("the question names a direction")
    if sorted(turned.options) != sorted(sample.options):
        raise UnmappedError("an option without its counterpart")
    return turned.answer_text


def _holds(sample: Sample, turned: Sample, labels: Labels) -> str:
    """Yes or No, as the sample spells it."""
    if {"motion", "asked"} <= sample.extras.keys():
        if (sample.answer_text.casefold() == "yes") != (sample.extras["motion"] == sample.extras["asked"]):
            raise UnmappedError("its label contradicts its motion")
        return "yes" if turned.extras["motion"] == sample.extras["asked"] else "no"
    if turned.question == sample.question:
        return sample.answer_text
    if (known := labels.get(_asked(turned))) is None:
        raise UnmappedError("no label of the opposite")
    return known


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
# Backwards, only the direction of a movement is reversed, not the position of an object ("the man on the left").
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
    """`text` with its directions reversed as the control reverses the clip.

    Raises:
        UnmappedError: backwards, it mentions an order of events, something other than the camera, or a direction
            that may be a position.
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

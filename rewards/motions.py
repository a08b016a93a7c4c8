"""The 15 camera motion primitives of CameraBench, and how the picture moves under each.

An observation states the physical cue, not the name: a pan and a truck both slide the picture sideways and differ by
parallax alone (under a rotation or a zoom near and far things move alike, under a translation near ones move more).
"""

import re

NAMES: dict[str, str] = {
    "static": "static",
    "dolly_in": "dolly in",
    "dolly_out": "dolly out",
    "pedestal_up": "pedestal up",
    "pedestal_down": "pedestal down",
    "truck_left": "truck left",
    "truck_right": "truck right",
    "zoom_in": "zoom in",
    "zoom_out": "zoom out",
    "pan_left": "pan left",
    "pan_right": "pan right",
    "tilt_up": "tilt up",
    "tilt_down": "tilt down",
    "roll_cw": "roll clockwise",
    "roll_ccw": "roll counterclockwise",
}
PRIMITIVES: tuple[str, ...] = tuple(NAMES)

_OPPOSITE_ENDS = {"in": "out", "up": "down", "left": "right", "cw": "ccw"}
_OPPOSITE_ENDS |= {end: start for start, end in _OPPOSITE_ENDS.items()}
_CONFUSABLE = {"pan": "truck", "tilt": "pedestal", "zoom": "dolly"}
_CONFUSABLE |= {translation: other for other, translation in _CONFUSABLE.items()}

# What the picture does under each primitive: (how it moves, whether near things move more than far ones).
_CUES: dict[str, tuple[str, bool | None]] = {
    "static": ("stays still", None),
    "roll_cw": ("turns counterclockwise", None),
    "roll_ccw": ("turns clockwise", None),
    "pan_left": ("slides right", False),
    "pan_right": ("slides left", False),
    "tilt_up": ("slides down", False),
    "tilt_down": ("slides up", False),
    "zoom_in": ("grows", False),
    "zoom_out": ("shrinks", False),
    "truck_left": ("slides right", True),
    "truck_right": ("slides left", True),
    "pedestal_up": ("slides down", True),
    "pedestal_down": ("slides up", True),
    "dolly_in": ("grows", True),
    "dolly_out": ("shrinks", True),
}
_PARALLAX = {None: "", False: ", near and far alike", True: ", near more than far"}
_MOTION_OF_CUE = {cue: motion for motion, cue in _CUES.items()}
_MOVES = re.compile(
    r"\b(slides (?:left|right|up|down)|grows|shrinks|turns (?:clockwise|counterclockwise)|stays still)\b"
)
_DEPTHS = re.compile(r"\b(near and far alike|near more than far)\b")


def opposite(motion: str) -> str | None:
    """The same movement the other way round; None for `static`."""
    kind, _, end = motion.partition("_")
    return f"{kind}_{_OPPOSITE_ENDS[end]}" if end else None


def confusable(motion: str) -> str | None:
    """The primitive that looks most like it: same direction without, or with, parallax; a roll's opposite.

    None for `static`.
    """
    kind, _, end = motion.partition("_")
    return f"{_CONFUSABLE[kind]}_{end}" if kind in _CONFUSABLE else opposite(motion)


def observation(motion: str, terse: bool = False) -> str:
    """What one sees on a clip of `motion`, as one sentence; a terse one leaves the parallax out and may fit two."""
    move, parallax = _CUES[motion]
    return f"The picture {move}{'' if terse else _PARALLAX[parallax]}."


def stated_motion(text: str) -> str | None:
    """The single primitive whose cue `text` states, whatever its case, spacing and other words.

    None if it states none, only half of one (a slide without its parallax), or several that differ.
    """
    moves, depths = _stated(text)
    if len(moves) != 1 or len(depths) > 1:
        return None
    parallax = depths.pop() == "near more than far" if depths else None
    return _MOTION_OF_CUE.get((moves.pop(), parallax))


def fidelity(text: str, motion: str) -> float:
    """Share of the clauses that are true: how the picture moves, and whether near things move more than far ones.

    A clause counts where `motion` has it or the text states it; it is true where the text states what `motion` shows
    and nothing else. So it is 1 where `stated_motion(text) == motion`, and nowhere else.

    Raises:
        ValueError: an unknown motion.

    Example:
        >>> fidelity("The picture slides right, near more than far.", "truck_left")
        1.0
        >>> fidelity("The picture slides right.", "truck_left")  # true, and half of it
        0.5
    """
    if motion not in _CUES:
        raise ValueError(f"motion {motion!r}: choose from {', '.join(PRIMITIVES)}")
    move, parallax = _CUES[motion]
    shown = ({move}, {_PARALLAX[parallax].removeprefix(", ")} - {""})
    clauses = [(true, stated) for true, stated in zip(shown, _stated(text)) if true or stated]
    return sum(true == stated for true, stated in clauses) / len(clauses)


def _stated(text: str) -> tuple[set[str], set[str]]:
    """The movements of the picture, and the parallaxes, that a text states."""
    words = " ".join(text.lower().split())
    return set(_MOVES.findall(words)), set(_DEPTHS.findall(words))

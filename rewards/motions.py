"""The 15 camera motion primitives of CameraBench, and what each of them does to the picture.

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
_LOOK_ALIKES = {"pan": "truck", "tilt": "pedestal", "zoom": "dolly"}
_LOOK_ALIKES |= {translation: other for other, translation in _LOOK_ALIKES.items()}

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
    return f"{_LOOK_ALIKES[kind]}_{end}" if kind in _LOOK_ALIKES else opposite(motion)


def observation(motion: str, terse: bool = False) -> str:
    """What one sees on a clip of `motion`, as one sentence; a terse one leaves the parallax out and may fit two."""
    move, parallax = _CUES[motion]
    return f"The picture {move}{'' if terse else _PARALLAX[parallax]}."


def stated_motion(text: str) -> str | None:
    """The single primitive whose cue `text` states, whatever its case, spacing and other words.

    None when it states none, only half of one (a slide without its parallax), or several that differ.
    """
    words = " ".join(text.lower().split())
    moves, depths = set(_MOVES.findall(words)), set(_DEPTHS.findall(words))
    if len(moves) != 1 or len(depths) > 1:
        return None
    parallax = depths.pop() == "near more than far" if depths else None
    return _MOTION_OF_CUE.get((moves.pop(), parallax))

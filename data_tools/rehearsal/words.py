"""What is asked and said about a shot, whichever form a data set gives it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from data_tools.files import write_json, write_text
from data_tools.rehearsal.clips import Shot
from data_tools.rendered.questions import BINARY_QUESTIONS
from rewards.motions import NAMES, PRIMITIVES, confusable, observation, opposite

MOVING = PRIMITIVES[1:]
WHICH = "Which camera movement does the clip show?"


def options_with(rng: np.random.Generator, motion: str, count: int) -> tuple[list[str], str]:
    """Names of `count` motions in random order, and the letter of the right one."""
    others = rng.choice([other for other in PRIMITIVES if other != motion], count - 1, replace=False)
    options = [NAMES[str(each)] for each in rng.permutation([motion, *others])]
    return options, ascii_uppercase[options.index(NAMES[motion])]


def another(rng: np.random.Generator, motion: str) -> str:
    """A motion that the clip does not show: the confusable one half of the time."""
    near = confusable(motion)
    return near if near and rng.random() < 0.5 else str(rng.choice([m for m in PRIMITIVES if m != motion]))


def yes_no(motion: str, shot: Shot) -> tuple[str, bool]:
    """CameraBench's question about a motion, and whether the clip shows it."""
    return BINARY_QUESTIONS[motion], motion == shot.motion


def happens(shot: Shot) -> str:
    """A sentence about the shot."""
    return f"The camera movement is {NAMES[shot.motion]}."


def chain(shot: Shot, answer: str, seen: str = "") -> str:
    """A whole response: what is visible, what follows, the answer."""
    observed = seen or observation(shot.motion)
    return f"<observation>{observed}</observation>\n<think>{happens(shot)}</think>\n<answer>{answer}</answer>"


def lettered(options: list[str], form: str = "{}. {}") -> list[str]:
    """Options with their letters.

    Example:
        >>> lettered(["no", "yes"], "({}) {}")
        ['(A) no', '(B) yes']
    """
    return [form.format(letter, option) for letter, option in zip(ascii_uppercase, options)]


def pairs() -> list[tuple[str, str]]:
    """Each moving motion with its opposite and with its look-alike, no pair twice."""
    found = [(motion, other) for motion in MOVING for other in (opposite(motion), confusable(motion)) if other]
    return list(dict.fromkeys(found))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON Lines, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_array(path: Path, rows: Any) -> None:
    """Rows as a JSON array, likewise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)

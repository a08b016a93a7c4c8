"""Accuracy of an answer by task, in [0, 1]. Reward and evaluation call the same function."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

_LETTER = re.compile(r"\(?([A-Z])\)?(?:[.):].*)?", re.DOTALL)


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that `answer` names by letter ("B", "(b)", "B. Yes") or by its text; None when it names none.

    A letter followed by the text of another option names none.
    """
    answer = answer.strip()
    texts = [option.strip().casefold() for option in options]
    if answer.rstrip(".").casefold() in texts:
        return texts.index(answer.rstrip(".").casefold())
    match = _LETTER.fullmatch(answer.upper())
    if match is None or (index := ascii_uppercase.index(match[1])) >= len(options):
        return None
    rest = answer[match.end(1) :].lstrip(").: ").rstrip(".").casefold()
    return index if rest in ("", texts[index]) else None


def accuracy(answer: str, gold: str, options: Sequence[str], task: str) -> float:
    """1.0 when `answer` names the gold option (a letter), else 0.0.

    Raises:
        ValueError: `gold` is no letter of `options`, or the task is unknown; never because of `answer`.
    """
    if task not in ("binary", "choice"):
        raise ValueError(f"task {task!r} has no accuracy")
    if len(gold) != 1 or gold not in ascii_uppercase[: len(options)]:
        raise ValueError(f"gold answer {gold!r} is no letter of the {len(options)} options")
    return float(chosen_option(answer, options) == ascii_uppercase.index(gold))

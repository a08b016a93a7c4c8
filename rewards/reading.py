"""Read an option, a number, spans or boxes out of a text."""

import json
import re
from collections.abc import Sequence
from math import isfinite
from string import ascii_uppercase
from typing import Any

MAX_ANSWER = 10_000  # characters; longer texts are not an answer; bounds the time that scoring takes
Span = Sequence[float]  # [start, end] in seconds
Box = Sequence[float]  # [x0, y0, x1, y1]
# What Chinese and Japanese texts write for letters, digits and the marks around them.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans("。、【】〔〕\u3000", "..()() ")
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.):].*)?", re.DOTALL)


def half_width(text: str) -> str:
    """The text with full-width letters, digits and marks as those of ASCII, one for one.

    Example:
        >>> half_width("（Ｂ）、是。")
        '(B).是.'
    """
    return text.translate(_HALF_WIDTH)


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that `answer` names by letter ("B", "(b)", "B. Yes") or by its text; None if it names none.

    A letter followed by the text of another option names none. Where options are themselves letters, a letter is the
    place of an option, as in the published labels of such questions; one beyond the last place is a text.

    Full-width letters and marks count as those of ASCII: "Ｂ", "（B）", "B、是。".

    Example:
        >>> [chosen_option(answer, ["No", "Yes"]) for answer in ("B", "(b) yes.", "no", "A. Yes", "maybe")]
        [1, 1, 0, None, None]
        >>> [chosen_option(answer, ["C", "B", "E"]) for answer in ("C", "C. E", "E", "C. C")]
        [2, 2, 2, None]
    """
    texts = [_bare(option) for option in options]
    answer = half_width(answer).strip()
    match = _LETTER.fullmatch(answer)
    if match and (index := ascii_uppercase.index(match[1].upper())) < len(options):
        if _bare(answer[match.end(1) :].lstrip(").: ")) in ("", texts[index]):
            return index
    bare = _bare(answer)
    return texts.index(bare) if bare and bare in texts else None


def _bare(text: str) -> str:
    """Without case, width, outer white space and a full stop at its end."""
    return half_width(text).strip().casefold().rstrip(".")


_NUMBER = re.compile(r"[-+]?(?=\.?[0-9])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")


def number(text: str) -> float | None:
    """The number that `text` is, with or without thousands separators; None if it is not one finite number."""
    text = half_width(text).strip().removesuffix(".")
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text.replace(",", ""))
    return value if isfinite(value) else None


_TO = re.compile(r"([0-9.]+) ?(?:s|sec|seconds)? ?(?:to|-|–|,) ?([0-9.]+) ?(?:s|sec|seconds)?")
_AS_JSON = str.maketrans("()'", '[]"')  # Python's tuples and quotes


def spans(text: str) -> list[Span] | None:
    """The spans that `text` is: "12.5 to 17.8", "[(5.2, 10.4), (12, 13)]", '{"time": [5.2, 10.4]}'.

    None if it is something else, or a span is not 0 <= start < end.
    """
    text = half_width(text)
    if match := _TO.fullmatch(" ".join(text.lower().split()).removesuffix(".")):
        start, end = number(match[1]), number(match[2])
        found: Any = [[start, end]] if start is not None and end is not None else None
    else:
        found = _literal(text)
        if isinstance(found, dict):
            found = found.get("time")
        if _numbers(found, 2):
            found = [found]
    if not isinstance(found, list) or not found or not all(_numbers(span, 2) for span in found):
        return None
    return found if all(0 <= span[0] < span[1] for span in found) else None


def boxes(text: str, count: int, names: Sequence[int] | None = None) -> list[Box | None] | None:
    """The `count` boxes that `text` is, in order: "[[x0, y0, x1, y1], ...]" or '{"boxes": {"1": [...], ...}}'.

    A single one may also be "[x0, y0, x1, y1]" or '{"boxes": [...]}'. A list must have `count` boxes; by frame
    number (`names`, else 1 to `count`) missing ones are None. None if the text is none of these.
    """
    found = _literal(half_width(text))
    if isinstance(found, dict):
        found = found.get("boxes")
    if isinstance(found, dict):
        found = [found.get(str(frame)) for frame in names or range(1, count + 1)]
    elif _numbers(found, 4):
        found = [found]
    if not isinstance(found, list) or len(found) != count:
        return None
    return [box if _numbers(box, 4) else None for box in found]


def _literal(text: str) -> Any:
    """JSON, or the same in Python's tuples and quotes, all numbers as floats; None if it is neither."""
    try:
        return json.loads(
            text.translate(_AS_JSON), parse_int=float, parse_constant=_refuse, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN, Infinity


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)


def _numbers(value: Any, count: int) -> bool:
    """Whether `value` is a list of `count` finite numbers."""
    return isinstance(value, list) and len(value) == count and all(type(v) is float and isfinite(v) for v in value)

"""The child process of rewards.maths. Runs as a script and imports nothing of this project."""

import json
import os
import re
import sys
from functools import lru_cache
from typing import Any
from unicodedata import normalize

TIME_LIMIT = 3.0  # seconds of processor time for one comparison; longer ones count as not equal
MEMORY = 2 << 30  # bytes
SMALL = 0.01  # numbers below it are equal only if they agree to four digits: math-verify rounds them to six decimals
# What math-verify reads as something else: bold as a text, 2 2/3 and 1 000 as products, 1e-5 as -5 + e, 2⅔ as 2, and
# LaTeX's percent sign only behind dollar signs: $50$\% is 1/2 and 50, as 50% is, but $50\%$ is 50 alone. A box
# around the whole answer adds nothing to it.
_BOXED = re.compile(r"\s*\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}\s*\.?\s*")
_BOLD = re.compile(r"\s*\*\*((?:(?!\*\*).)+)\*\*\s*\.?\s*", re.DOTALL)
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:[ \u00a0\u202f]\d{3})+)(?![\d/])")
_MIXED = re.compile(r"(?<![\d.,^_/])(\d+)[ \u00a0]+(\d+)/(\d+)(?![\d.])")
_PERCENT = re.compile(r"(?:\s|\\[,;: ])*\\%")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")


def as_written(text: str) -> str:
    """An expression as its writer means it, in words that math-verify reads.

    Example:
        >>> [as_written(text) for text in ("**2 2/3**", "2⅔", "1 000", "1.5e-7", "2**3", r"\\boxed{50 \\%}")]
        ['(2+2/3)', '(2+2/3)', '1000', '1.5*10^{-7}', '2**3', '50%']
    """
    for mark in (_BOLD, _BOXED):
        if whole := mark.fullmatch(text):
            text = whole[1]
    text = _VULGAR.sub(lambda match: " " + normalize("NFKC", match[0]).replace("\u2044", "/"), text).strip()
    text = _THOUSANDS.sub(lambda match: re.sub(r"\s", "", match[0]), text)
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    text = _PERCENT.sub("%", text)
    return _SCIENTIFIC.sub(r"\1*10^{\2}", text)


def tell_small_numbers_apart() -> None:
    """Have math-verify compare numbers below `SMALL` by their digits (0.9.0, grader.py:166, 178: else all are 0)."""
    from math_verify import grader

    by_rounding = grader.sympy_numeric_eq

    def equal(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
        if not by_rounding(a, b, float_rounding, numeric_precision):
            return False
        try:
            x, y = (abs(complex(each.doit().evalf(30))) for each in (a, b))
            difference = abs(complex((a - b).doit().evalf(30)))
        except (AttributeError, TypeError, ValueError):  # no number
            return True
        return max(x, y) >= SMALL or difference <= 1e-4 * max(x, y)

    grader.sympy_numeric_eq = equal


def serve() -> None:
    import logging
    import resource
    import signal

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # parsers write notices to the standard output
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    tell_small_numbers_apart()

    @lru_cache(maxsize=64)  # the gold answer, while its group is scored
    def parsed(text: str) -> Any:
        """As one expression: without dollar signs, math-verify would pick the last number of any text."""
        text = as_written(text)
        return parse(text if "$" in text or "\\boxed" in text else f"${text}$", parsing_timeout=None)

    def reply(text: str) -> None:
        replies.write(text + "\n")
        replies.flush()

    reply("ready")
    for line in sys.stdin:
        answer, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)  # without a handler: the kernel ends this process
        expected = parsed(gold)
        if not expected or isinstance(expected[0], str):
            reply("gold")
        else:
            reply("equal" if verify(expected, parsed(answer), timeout_seconds=None) else "different")


if __name__ == "__main__":
    serve()

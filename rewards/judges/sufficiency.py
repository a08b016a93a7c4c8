"""Whether a text alone suffices for the right answer (VideoP2R, equation 3), for reward, chain filter and report.

A judge that answers from the text is read leniently: what counts is what it says, not how. (A policy, whose form is
rewarded, is read strictly by `rewards.tasks`.)
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from rewards.judges.protocol import Judge, Unjudged
from rewards.reading import MAX_ANSWER, number
from rewards.tasks import accuracy
from rewards.words import Words

SUFFICIENT = 0.75  # accuracy from which on an answer that is no option counts as right
ShowAnswer = Literal["never", "open_ended", "always"]


async def why_insufficient(
    text: str,
    sample: Mapping[str, Any],
    judge: Judge,
    sufficient: float = SUFFICIENT,
    show_answer: ShowAnswer = "open_ended",
) -> str | None | Unjudged:
    """Why `text` alone does not support the sample's right answer, by the judge; None where it does.

    Args:
        sufficient: accuracy from which on the judge's own answer counts as right.
        show_answer: for which tasks the judge is shown the right answer and says yes or no, instead of finding it:
            `always`, as in the paper; `open_ended`, free answers alone, whose wording no rule can allow for; `never`.

    Raises:
        JudgeError: by the judge. ValueError, KeyError: a sample that cannot be scored.

    Example:
        >>> import asyncio
        >>> from rewards.judges.rules import RuleJudge
        >>> sample = {"task": "binary", "options": ["No", "Yes"], "answer": "B", "extras": {"asked": "zoom_in"}}
        >>> asyncio.run(why_insufficient("The picture shrinks, near and far alike.", sample, RuleJudge()))
        "the observation leads to 'A': accuracy 0 below 0.75"
    """
    if show_answer in ("always", sample["task"]):
        verdict = await judge.supports(text, sample)
        if isinstance(verdict, Unjudged):
            return verdict
        return None if verdict else "the observation does not support the right answer"
    answer = await judge.answer_from_text(text, sample)
    if answer is None:
        return "the observation does not suffice for an answer"
    if isinstance(answer, Unjudged):
        return answer
    if (got := lenient_accuracy(answer, sample)) >= sufficient:
        return None
    return f"the observation leads to {answer!r}: accuracy {got:.3g} below {sufficient:g}"


def lenient_accuracy(answer: str, sample: Mapping[str, Any]) -> float:
    """Accuracy of a judge's answer, in [0, 1], whatever stands beside a number or a text.

    Example:
        >>> lenient_accuracy("There are four.", {"task": "numerical", "answer": "4"})
        1.0
        >>> lenient_accuracy("The sign reads STOP", {"task": "ocr", "answer": "STOP"})
        1.0
    """
    strict = accuracy(answer, sample, stemmer=True, regression="relative_error")
    if sample["task"] in ("numerical", "regression") and (said := the_number(answer)) is not None:
        return max(strict, accuracy(said, sample, regression="relative_error"))
    if sample["task"] == "ocr":
        return max(strict, _spelled(sample["answer"], answer[:MAX_ANSWER]))
    return strict


_SMALL = (
    *("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()),
    *("seventeen eighteen nineteen".split()),
)
_TENS = {word: 10 * ten for ten, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_WORDS = {word: value for value, word in enumerate(_SMALL)} | _TENS
_NUMBERS = re.compile(
    rf"(?<![\w.,])[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)|\b({'|'.join(_TENS)})[ -]({'|'.join(_SMALL[1:10])})\b"
    rf"|\b({'|'.join(_WORDS)})\b",
    re.IGNORECASE,
)


def the_number(text: str) -> str | None:
    """The one number that `text` names, in digits or as an English word below a hundred; None if it names several.

    Example:
        >>> [the_number(text) for text in ("2.5 meters", "twenty-one", "2 or 3")]
        ['2.5', '21', None]
    """
    found: set[float | None] = set()
    for match in _NUMBERS.finditer(text[:MAX_ANSWER]):
        words = [_WORDS[part.lower()] for part in match.groups() if part]  # of twenty-one two, of four one
        found.add(sum(words) if words else number(match[0].rstrip(",")))
    if len(found) != 1 or (only := found.pop()) is None:
        return None
    return f"{only:.15g}"


def _spelled(gold: str, answer: str) -> float:
    """1 - word error rate of the passage of `answer` that is nearest to `gold`, without case and punctuation."""
    from jiwer import wer

    words, said = Words().tokenize(gold), Words().tokenize(answer)
    if not words:
        return 0.0
    passages = [said[start : start + len(words)] for start in range(max(1, len(said) - len(words) + 1))]
    return max(0.0, 1 - min(float(wer(" ".join(words), " ".join(passage))) for passage in passages))

"""What a chain must pass to be kept. Each filter gives the reason why a chain is dropped, or None."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from data_tools.sample import Sample
from rewards.judge import UNJUDGED, Judge
from rewards.response import ParsedResponse, parse
from rewards.tasks import accuracy, event_recall

_HINDSIGHT = re.compile(
    r"\b(?:given|provided|supplied|known|reference|ground[- ]truth)\s+(?:right\s+|correct\s+)?(?:answer|option|label)\b"
    r"|\b(?:answer|option|label)\s+(?:is|was|that\s+was)\s+(?:given|provided|supplied)\b",
    re.IGNORECASE,
)
Filter = Callable[[ParsedResponse, Sample, Judge, float], Awaitable[str | None]]


class Unsettled(RuntimeError):
    """A chain that is neither kept nor dropped: its judge gave no verdict, or its sample cannot be scored."""


async def fault(
    chain: str, sample: Sample, judge: Judge, filters: list[str], min_accuracy: Mapping[str, float]
) -> tuple[str, str] | None:
    """The first filter that `chain` does not pass, and why; None when it passes all.

    Raises:
        Unsettled: no verdict where one is needed, or a sample that nothing can score. JudgeError: by the judge.
    """
    bound = min_accuracy.get(sample.task, min_accuracy["default"])
    parsed = parse(chain)
    for name in filters:
        if (reason := await FILTERS[name](parsed, sample, judge, bound)) is not None:
            return name, reason
    return None


async def _format(parsed: ParsedResponse, sample: Sample, judge: Judge, bound: float) -> str | None:
    return parsed.error


async def _hindsight(parsed: ParsedResponse, sample: Sample, judge: Judge, bound: float) -> str | None:
    found = _HINDSIGHT.search(f"{parsed.observation}\n{parsed.think}")
    return f"speaks of {found[0]!r}" if found else None


async def _accuracy(parsed: ParsedResponse, sample: Sample, judge: Judge, bound: float) -> str | None:
    got = await _score(parsed.answer, sample, judge)
    return None if got >= bound else f"{got:.3g} is below {bound:g}"


async def _consistency(parsed: ParsedResponse, sample: Sample, judge: Judge, bound: float) -> str | None:
    verdict = _settled(await judge.consistent(parsed.think, parsed.answer, sample.model_dump()))
    return None if verdict else "the reasoning does not lead to the answer"


async def _sufficiency(parsed: ParsedResponse, sample: Sample, judge: Judge, bound: float) -> str | None:
    answer = _settled(await judge.answer_from_text(parsed.observation, sample.model_dump()))
    if answer is None:
        return "the observation does not suffice for an answer"
    got = await _score(answer, sample, judge)
    return None if got >= bound else f"the observation leads to {answer!r}: accuracy {got:.3g} below {bound:g}"


async def _score(answer: str, sample: Sample, judge: Judge) -> float:
    fields: dict[str, Any] = sample.model_dump()
    if sample.task == "caption":
        return _settled(await event_recall(answer, fields, judge))
    try:
        return accuracy(answer, fields)
    except ValueError as error:
        raise Unsettled(f"cannot be scored: {error}") from error


def _settled(verdict: Any) -> Any:
    if verdict is UNJUDGED:
        raise Unsettled("unjudged")
    return verdict


FILTERS: dict[str, Filter] = {
    "format": _format,
    "hindsight": _hindsight,
    "accuracy": _accuracy,
    "consistency": _consistency,
    "sufficiency": _sufficiency,
}

"""What a chain must pass to be kept. Each filter gives the reason why a chain is dropped, or None."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from data_tools.sample import Sample
from data_tools.synthesis.request import gold_text
from data_tools.synthesis.settings import FilterName
from rewards.errors import UserError
from rewards.judges.endpoint import EndpointJudge
from rewards.judges.protocol import Judge, Unjudged, event_recall
from rewards.judges.sufficiency import SUFFICIENT, ShowAnswer, why_insufficient
from rewards.response import ParsedResponse, parse
from rewards.tasks import accuracy

_HINDSIGHT = re.compile(
    r"\b(?:given|provided|supplied|known|reference|ground[- ]truth)\s+(?:right\s+|correct\s+)?(?:answer|option|label)\b"
    r"|\b(?:answer|option|label)\s+(?:is|was|that\s+was)\s+(?:given|provided|supplied)\b",
    re.IGNORECASE,
)
Verdict = TypeVar("Verdict")


@dataclass(frozen=True)
class Bounds:
    """What an answer must be worth: `accuracy` that of a chain; `sufficient` and `show_answer` of a judge's
    (`rewards.judges.sufficiency`)."""

    accuracy: float
    sufficient: float = SUFFICIENT
    show_answer: ShowAnswer = "open_ended"


Filter = Callable[[ParsedResponse, Sample, Judge, Bounds], Awaitable[str | None]]
Clip = Callable[[], list[dict[str, Any]]]  # a sample's clip as parts of a message


class Unsettled(UserError):
    """A chain that is neither kept nor dropped: its judge gave no verdict, or its sample cannot be scored."""


async def failed_filter(
    chain: str,
    sample: Sample,
    judge: Judge,
    filters: list[FilterName],
    min_accuracy: Mapping[str, float],
    sufficient: float = SUFFICIENT,
    show_answer: ShowAnswer = "open_ended",
    clip: Clip = list,
) -> tuple[str, str] | None:
    """The first filter that `chain` does not pass, and why; None when it passes all.

    Args:
        clip: for the filter that looks at it (`review`).

    Raises:
        Unsettled: no verdict where one is needed, or a sample that cannot be scored. JudgeError: by the judge.
    """
    bounds = Bounds(min_accuracy.get(sample.task, min_accuracy["default"]), sufficient, show_answer)
    parsed = parse(chain)
    for name in filters:
        if name == "review":
            reason = await _review(chain, sample, judge, clip)
        else:
            reason = await FILTERS[name](parsed, sample, judge, bounds)
        if reason is not None:
            return name, reason
    return None


async def _format(parsed: ParsedResponse, sample: Sample, judge: Judge, bounds: Bounds) -> str | None:
    return parsed.error


async def _hindsight(parsed: ParsedResponse, sample: Sample, judge: Judge, bounds: Bounds) -> str | None:
    found = _HINDSIGHT.search(f"{parsed.observation}\n{parsed.think}")
    return f"speaks of {found[0]!r}" if found else None


async def _accuracy(parsed: ParsedResponse, sample: Sample, judge: Judge, bounds: Bounds) -> str | None:
    got = await _score(parsed.answer or "", sample, judge)
    return None if got >= bounds.accuracy else f"{got:.3g} is below {bounds.accuracy:g}"


async def _consistency(parsed: ParsedResponse, sample: Sample, judge: Judge, bounds: Bounds) -> str | None:
    verdict = _settled(await judge.consistent(parsed.think or "", parsed.answer or "", sample.model_dump()))
    return None if verdict else "the reasoning does not lead to the answer"


async def _sufficiency(parsed: ParsedResponse, sample: Sample, judge: Judge, bounds: Bounds) -> str | None:
    text, fields = parsed.observation or "", sample.model_dump()
    return _settled(await why_insufficient(text, fields, judge, bounds.sufficient, bounds.show_answer))


async def _review(chain: str, sample: Sample, judge: Judge, clip: Clip) -> str | None:
    if not isinstance(judge, EndpointJudge):
        raise Unsettled("review needs a model that sees the clip: synthesis.judge.name=endpoint")
    shown = await asyncio.to_thread(clip)
    checks = _settled(await judge.reviewed(shown, chain, gold_text(sample), sample.model_dump()))
    failed = [name for name, passed in checks.items() if not passed]
    return f"lacks {' and '.join(failed)}" if failed else None


async def _score(answer: str, sample: Sample, judge: Judge) -> float:
    fields: dict[str, Any] = sample.model_dump()
    if sample.task == "caption":
        return _settled(await event_recall(answer, fields, judge))
    try:
        return accuracy(answer, fields, stemmer=True, regression="relative_error")
    except ValueError as error:
        raise Unsettled(f"cannot be scored: {error}") from error


def _settled(verdict: Verdict | Unjudged) -> Verdict:
    if isinstance(verdict, Unjudged):
        raise Unsettled("unjudged")
    return verdict


FILTERS: dict[FilterName, Filter] = {
    "format": _format,
    "hindsight": _hindsight,
    "accuracy": _accuracy,
    "consistency": _consistency,
    "sufficiency": _sufficiency,
}

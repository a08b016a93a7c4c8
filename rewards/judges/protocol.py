"""What a judge is, what it returns when it cannot decide, and event recall, which rewards and filters ask it for."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from rewards.errors import UserError
from rewards.reading import MAX_ANSWER


class JudgeError(UserError):
    """No verdict; the message names the sample or the server, and what to do."""


class Unjudged(Enum):
    """The verdict of a judge that could not answer, where the recipe says `on_failure: unjudged`.

    Neither true nor false: using it as a condition raises an error, so that it cannot pass for a zero.
    """

    UNJUDGED = "unjudged"

    def __bool__(self) -> bool:
        raise TypeError("an unjudged text is neither right nor wrong; compare with `is UNJUDGED`")


UNJUDGED = Unjudged.UNJUDGED


class Judge(Protocol):
    """Verdicts on texts; `sample` is a sample's fields. Every method may raise JudgeError or give UNJUDGED.

    Example:
        >>> import asyncio
        >>> from rewards.judges.rules import RuleJudge
        >>> judge: Judge = RuleJudge()
        >>> sample = {"task": "binary", "options": ["No", "Yes"], "extras": {"asked": "zoom_in"}}
        >>> asyncio.run(judge.answer_from_text("The picture grows, near and far alike.", sample))
        'B'
    """

    async def answer_from_text(self, text: str, sample: Mapping[str, Any]) -> "str | None | Unjudged":
        """The answer that `text` alone supports (a letter where there are options); None if it does not suffice."""

    async def supports(self, text: str, sample: Mapping[str, Any]) -> "bool | Unjudged":
        """Whether `text` alone suffices for the sample's right answer, which is shown."""

    async def entailed(self, statements: Sequence[str], text: str) -> "list[bool] | Unjudged":
        """For each statement, whether `text` says it."""

    async def consistent(self, think: str, answer: str, sample: Mapping[str, Any]) -> "bool | Unjudged":
        """Whether the reasoning `think` leads to `answer`, be it right or wrong."""

    def metrics(self) -> dict[str, float]:
        """Totals so far: verdicts, unjudged, and for an endpoint requests, cached, tokens and cost."""


async def event_recall(caption: str, sample: Mapping[str, Any], judge: Judge) -> float | Unjudged:
    """Share of the sample's events that `caption` entails by `judge` (VideoChat-R1, equation 6); or UNJUDGED."""
    verdicts = await judge.entailed(sample["events"], caption[:MAX_ANSWER])
    return UNJUDGED if isinstance(verdicts, Unjudged) else sum(verdicts) / len(sample["events"])

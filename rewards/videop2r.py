"""VideoP2R's "process-aware" rewards: perception and reasoning apart (sections 3.2.2, 3.2.3, equations 3 to 5)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rewards.response import ParsedResponse
from rewards.tasks import Regression, accuracy

if TYPE_CHECKING:
    from rewards.judges.protocol import Judge
    from rewards.judges.sufficiency import ShowAnswer

COMPONENTS = (
    *("score", "perception", "perception_accuracy", "perception_format", "perception_length"),
    *("reasoning", "accuracy", "format", "reasoning_length"),
    *("unjudged", "perception_tokens", "reasoning_tokens"),
)


async def reward(
    response: ParsedResponse,
    sample: Mapping[str, Any],
    *,
    judge: "Judge",
    lengths: Mapping[str, int] | None = None,
    length_reward: float = 0.2,
    perception_length: tuple[int, int] = (128, 320),
    reasoning_length: tuple[int, int] = (320, 512),
    sufficient: float = 0.75,
    show_answer: Literal["never", "open_ended", "always"] = "open_ended",
    score: Literal["both", "perception", "reasoning"] = "both",
    stemmer: bool = False,
    regression: Regression = "relative_error",
) -> dict[str, float]:
    """R_k = R_acc,k + R_form,k + R_len,k for k in perception, reasoning (equation 5).

    A malformed response has no segments: it earns 0 for both.

    Args:
        response, sample: as parsed by its schema; a sample's fields, of any task that a rule scores.
        judge: is asked what the observation alone supports; it does not see the clip.
        lengths: tokens of the two segments, {"perception": n, "reasoning": n} (`rewards.segments.segment_lengths`).
        length_reward: R_len of a segment with an accuracy and a format above 0, whose tokens lie within its bounds,
            `perception_length` or `reasoning_length`, both ends included.
        sufficient: accuracy from which on the answer that the judge finds makes the perception right (equation 3 knows
            no answers that are right in part).
        show_answer: to which tasks the judge is shown the right answer instead (`rewards.judges.sufficiency`).
        score: what estimators of one advantage take: the sum of `both` rewards, or one alone (table 2).
        stemmer, regression: how open answers and numbers are compared (`rewards.tasks.accuracy`).

    Returns:
        `perception`, `reasoning`, `score` and their parts. Where `unjudged` is 1 the judge gave no verdict:
        `perception` lacks its accuracy, and `PaGrpo` must leave it out (`judged_B`).

    Raises:
        ValueError, KeyError: a malformed sample or setting, or no `lengths` although they are rewarded.
        JudgeError: by the judge.

    Example:
        >>> import asyncio
        >>> from rewards.judges.rules import RuleJudge
        >>> from rewards.response import parse
        >>> sample = {"task": "binary", "options": ["No", "Yes"], "answer": "B", "extras": {"asked": "zoom_in"}}
        >>> seen = "The picture grows, near and far alike."  # zoom in, not dolly in
        >>> response = parse(f"<observation>{seen}</observation><think>t</think><answer>No</answer>")
        >>> scored = asyncio.run(reward(response, sample, judge=RuleJudge(), length_reward=0))
        >>> scored["perception"], scored["reasoning"]  # what it saw was right, what it concluded was not
        (2.0, 1.0)
    """
    if score not in ("both", "perception", "reasoning"):
        raise ValueError(f"score={score}: choose both, perception or reasoning")
    if length_reward and lengths is None:
        raise ValueError("videop2r rewards lengths in tokens: give `lengths`, or set length_reward to 0")
    tokens = lengths or {"perception": 0, "reasoning": 0}
    counted = dict.fromkeys(COMPONENTS, 0.0) | {f"{segment}_tokens": float(n) for segment, n in tokens.items()}
    if not response.ok:
        return counted
    seen = response.parts["observation"]
    acc_p, unjudged = await _perception_accuracy(seen, sample, judge, sufficient, show_answer)
    acc_r = accuracy(response.parts["answer"], sample, stemmer=stemmer, regression=regression)
    len_p = length_reward * (acc_p > 0 and _within(tokens["perception"], perception_length))
    len_r = length_reward * (acc_r > 0 and _within(tokens["reasoning"], reasoning_length))
    perception, reasoning = acc_p + 1.0 + len_p, acc_r + 1.0 + len_r
    scores = {"both": perception + reasoning, "perception": perception, "reasoning": reasoning}
    return counted | {
        **{"score": scores[score], "unjudged": unjudged},
        **{"perception": perception, "perception_accuracy": acc_p, "perception_format": 1.0},
        **{"perception_length": len_p, "reasoning_length": len_r},
        **{"reasoning": reasoning, "accuracy": acc_r, "format": 1.0},
    }


def _within(tokens: int, bounds: Sequence[int]) -> bool:
    return bounds[0] <= tokens <= bounds[1]


async def _perception_accuracy(
    observation: str, sample: Mapping[str, Any], judge: "Judge", sufficient: float, show_answer: "ShowAnswer"
) -> tuple[float, float]:
    """R_acc,P of equation 3, and 1 where the judge gave no verdict."""
    from rewards.judges.protocol import Unjudged
    from rewards.judges.sufficiency import why_insufficient

    reason = await why_insufficient(observation, sample, judge, sufficient, show_answer)
    return (0.0, 1.0) if isinstance(reason, Unjudged) else (float(reason is None), 0.0)

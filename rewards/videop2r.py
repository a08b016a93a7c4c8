"""VideoP2R's process-aware rewards: perception and reasoning apart (sections 3.2.2 and 3.2.3, equations 3 to 5)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewards.response import parse
from rewards.tasks import accuracy

if TYPE_CHECKING:
    from rewards.judge import Judge

COMPONENTS = (
    *("score", "perception", "perception_accuracy", "perception_format", "perception_length"),
    *("reasoning", "accuracy", "format", "reasoning_length"),
    *("unjudged", "perception_tokens", "reasoning_tokens"),
)


async def reward(
    response: str,
    sample: Mapping[str, Any],
    *,
    judge: "Judge",
    lengths: Mapping[str, int] | None = None,
    length_reward: float = 0.2,
    perception_length: Sequence[int] = (128, 320),
    reasoning_length: Sequence[int] = (320, 512),
    sufficient: float = 0.5,
    score: str = "both",
    schema: str = "ota",
) -> dict[str, float]:
    """R_k = R_acc,k + R_form,k + R_len,k for k in perception, reasoning (equation 5).

    A malformed response has no two processes: it earns 0 for both.

    Args:
        response: the response alone.
        sample: a sample's fields, of any task that a rule scores.
        judge: is asked which answer the observation alone supports; it sees neither the clip nor the right answer.
        lengths: tokens of the two processes, {"perception": n, "reasoning": n} (`rewards.segments.segment_lengths`).
        length_reward: R_len of a process whose accuracy and format are not 0 and whose tokens lie within its bounds.
        perception_length, reasoning_length: these bounds, both included.
        sufficient: accuracy from which on the judged answer makes the perception right; equation 3 knows right and
            wrong alone, while an answer that is no option may be right in part.
        score: what `score` holds, which is what estimators of one advantage take: the sum of `both` rewards, or
            `perception` or `reasoning` alone (table 2, without the other).
        schema: of the response.

    Returns:
        `perception`, `reasoning`, `score` and their parts. `unjudged` is 1 where the judge gave no
        verdict: `perception` then lacks its accuracy, and `PaGrpo` must leave it out (`judged_B`).

    Raises:
        ValueError, KeyError: a malformed sample or setting, or no `lengths` although they are rewarded.
        JudgeError: by the judge.
    """
    if score not in ("both", "perception", "reasoning"):
        raise ValueError(f"score={score}: choose both, perception or reasoning")
    if length_reward and lengths is None:
        raise ValueError("videop2r rewards lengths in tokens: give `lengths`, or set length_reward to 0")
    tokens = lengths or {"perception": 0, "reasoning": 0}
    components = dict.fromkeys(COMPONENTS, 0.0)
    components |= {f"{process}_tokens": float(tokens[process]) for process in ("perception", "reasoning")}
    parsed = parse(response, schema)
    if not parsed.ok:
        return components

    def length(acc: float, process: str, bounds: Sequence[int]) -> float:
        return length_reward if acc > 0 and bounds[0] <= tokens[process] <= bounds[1] else 0.0

    acc_p = await _perception_accuracy(parsed.observation, sample, judge, sufficient)
    unjudged, acc_p = acc_p is None, acc_p or 0.0
    acc_r = accuracy(parsed.answer, sample)
    len_p, len_r = length(acc_p, "perception", perception_length), length(acc_r, "reasoning", reasoning_length)
    perception, reasoning = acc_p + 1.0 + len_p, acc_r + 1.0 + len_r
    scores = {"both": perception + reasoning, "perception": perception, "reasoning": reasoning}
    return components | {
        **{"score": scores[score], "unjudged": float(unjudged)},
        **{"perception": perception, "perception_accuracy": acc_p, "perception_format": 1.0},
        **{"perception_length": len_p, "reasoning_length": len_r},
        **{"reasoning": reasoning, "accuracy": acc_r, "format": 1.0},
    }


async def _perception_accuracy(
    observation: str, sample: Mapping[str, Any], judge: "Judge", sufficient: float
) -> float | None:
    """1 when the answer that the observation alone supports is right (equation 3), else 0; None without a verdict."""
    from rewards.judge import UNJUDGED

    answer = await judge.answer_from_text(observation, sample)
    if answer is UNJUDGED:
        return None
    return 0.0 if answer is None else float(accuracy(answer, sample) >= sufficient)

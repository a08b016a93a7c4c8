"""PA-GRPO: perception and reasoning rewards are normalised apart, each on its own tokens (VideoP2R, eq. 6 and 7)."""

from typing import Literal

import torch

from rewards.advantages.base import Advantages, Batch, Stateless, group_ids, normalised


class PaGrpo(Stateless):
    """A_i,k = (R_i,k - mean) / (std + eps) within the group, for k in perception, reasoning, on the tokens of k.

    A malformed response earns 0 for both segments, takes part in both groups, and all its tokens are reasoning
    (`rewards.segments`): they get A_reasoning, where it lies below every well-formed response of its group.

    Args:
        eps: added to the standard deviation.
        normalize_std: divide by it.
        separate: False is the ablation "without separation" (table 2): one advantage, of the summed rewards, on all
            tokens.
        weights: `segments` weigh the same in the loss, one term each (equation 7), where it is a mean over the tokens
            of a response (verl's seq-mean-token-mean); or by their `tokens`.

    Example:
        >>> rewards = {"perception_B": torch.tensor([2.0, 1.0]), "reasoning_B": torch.tensor([1.0, 2.0])}
        >>> batch = Batch(torch.tensor([3.0, 3.0]), ["a", "a"], ["binary"] * 2, **rewards,
        ...               perception_tokens_B=torch.tensor([2, 1]))
        >>> PaGrpo(normalize_std=False).advantages(batch).tokens(torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]]))
        tensor([[ 0.5000,  0.5000, -0.5000, -0.0000],
                [-0.5000,  0.5000,  0.5000,  0.5000]])
    """

    reads = frozenset({"perception", "reasoning"})

    def __init__(
        self,
        eps: float = 1e-6,
        normalize_std: bool = True,
        separate: bool = True,
        weights: Literal["segments", "tokens"] = "segments",
    ) -> None:
        self.eps, self.normalize_std, self.separate, self.weights = eps, normalize_std, separate, weights
        self._metrics: dict[str, float] = {}

    def advantages(self, batch: Batch) -> Advantages:
        """Of each response one for its perception tokens and one for its reasoning tokens.

        Where the judge gave no verdict on the perception, the perception of that row gets 0 and does not affect other
        rows (without separation: the whole row).

        Raises:
            ValueError: a batch without rewards per segment.
        """
        if batch.perception_B is None or batch.reasoning_B is None:
            raise ValueError("advantage=pa_grpo needs rewards per segment: use reward=videop2r")
        all_B = group_ids(batch.groups_B)
        judged_ids_B = group_ids(batch.groups_B, batch.judged_B)
        if self.separate:
            rewards = {"perception": (batch.perception_B, judged_ids_B), "reasoning": (batch.reasoning_B, all_B)}
        else:
            rewards = {"sum": (batch.perception_B + batch.reasoning_B, judged_ids_B)}
        results = {
            k: normalised(values_B, ids_B, self.eps, self.normalize_std) for k, (values_B, ids_B) in rewards.items()
        }

        unjudged = 0.0 if batch.judged_B is None else float((~batch.judged_B.bool()).sum())
        self._metrics = {"pa_grpo/unjudged": unjudged}
        for segment, advantages_B in results.items():
            all_zero_G = torch.bincount(all_B, weights=(advantages_B != 0).double()) == 0
            self._metrics[f"pa_grpo/collapsed/{segment}"] = float(all_zero_G.double().mean())
        values = list(results.values())
        equal = self.separate and self.weights == "segments"
        return Advantages(values[-1], values[0], batch.perception_tokens_B, equal)

    def metrics(self) -> dict[str, float]:
        """Of the last batch: share of zero-advantage groups per segment, and rows whose perception is unjudged."""
        return self._metrics

"""PA-GRPO: perception and reasoning rewards normalised apart, each on its own tokens (VideoP2R, equations 6 and 7)."""

from collections.abc import Sequence

import torch

from rewards.advantages.grpo import Stateless, group_ids, normalised


class PaGrpo(Stateless):
    """A_i,k = (R_i,k - mean) / (std + eps) within the group, for k in perception, reasoning, on the tokens of k.

    A malformed response earns 0 for both processes, takes part in both groups, and all its tokens are reasoning
    (`rewards.segments`): they get A_reasoning, in which it lies below every well-formed response of its group.

    Args:
        eps: added to the standard deviation.
        normalize_std: divide by it.
        separate: False is the ablation "without separation" (table 2): one advantage, of the summed rewards, on all
            tokens.
    """

    def __init__(self, eps: float = 1e-6, normalize_std: bool = True, separate: bool = True) -> None:
        self.eps, self.normalize_std, self.separate = eps, normalize_std, separate
        self._metrics: dict[str, float] = {}

    def process_advantages(
        self,
        perception_B: torch.Tensor,
        reasoning_B: torch.Tensor,
        groups_B: Sequence[str],
        judged_B: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(A_perception (B,), A_reasoning (B,)) of the rewards of both processes.

        `judged_B`: (B,) false where the judge gave no verdict on the perception: that row's perception gets 0 and moves
        nobody else (without separation: the whole row).
        """
        all_B = group_ids(groups_B)
        judged_ids_B = group_ids(groups_B, judged_B)
        if self.separate:
            rewards = {"perception": (perception_B, judged_ids_B), "reasoning": (reasoning_B, all_B)}
        else:
            rewards = {"sum": (perception_B + reasoning_B, judged_ids_B)}
        results = {
            k: normalised(*values_and_ids, self.eps, self.normalize_std) for k, values_and_ids in rewards.items()
        }

        self._metrics = {"pa_grpo/unjudged": 0.0 if judged_B is None else float((~judged_B.bool()).sum())}
        for process, advantages_B in results.items():
            still_G = torch.bincount(all_B, weights=(advantages_B != 0).double()) == 0
            self._metrics[f"pa_grpo/collapsed/{process}"] = float(still_G.double().mean())
        return results.get("perception", results.get("sum")), results.get("reasoning", results.get("sum"))

    def token_advantages(
        self,
        perception_B: torch.Tensor,
        reasoning_B: torch.Tensor,
        groups_B: Sequence[str],
        perception_mask_BT: torch.Tensor,
        reasoning_mask_BT: torch.Tensor,
        judged_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, T) advantages: A_perception on the tokens of its mask, A_reasoning on those of its own, 0 elsewhere."""
        advantages = self.process_advantages(perception_B, reasoning_B, groups_B, judged_B)
        of_perception, of_reasoning = (advantages_B.unsqueeze(-1) for advantages_B in advantages)
        # Two selections into one tensor: products with masks would convert them, and allocate, four times as long.
        out_BT = torch.where(reasoning_mask_BT.bool(), of_reasoning, 0.0)
        return torch.where(perception_mask_BT.bool(), of_perception, out_BT, out=out_BT)

    def metrics(self) -> dict[str, float]:
        """Of the last batch: share of groups that teach a process nothing, and rows whose perception is unjudged."""
        return self._metrics

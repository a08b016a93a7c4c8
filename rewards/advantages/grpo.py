"""Group-relative advantages (GRPO; CamReasoner section 3.2.2)."""

from collections.abc import Sequence
from typing import Any

import torch


def group_ids(groups_B: Sequence[str]) -> torch.Tensor:
    """Number the groups 0, 1, ... in order of first appearance: (B,) int64."""
    number = {group: index for index, group in enumerate(dict.fromkeys(groups_B))}
    return torch.tensor([number[group] for group in groups_B])


def group_mean(values_B: torch.Tensor, ids_B: torch.Tensor) -> torch.Tensor:
    """Mean of each element's group, (B,)."""
    sums = torch.zeros(int(ids_B.max()) + 1, dtype=values_B.dtype).index_add_(0, ids_B, values_B)
    return (sums / torch.bincount(ids_B))[ids_B]


def group_std(values_B: torch.Tensor, ids_B: torch.Tensor, unbiased: bool) -> torch.Tensor:
    """Standard deviation of each element's group, (B,); the sample's (n - 1) when `unbiased`, 0 for a group of one."""
    squares = (values_B - group_mean(values_B, ids_B)) ** 2
    sizes = torch.bincount(ids_B)[ids_B].to(values_B.dtype)
    scale = sizes / (sizes - 1).clamp_min(1) if unbiased else 1.0
    return (group_mean(squares, ids_B) * scale).sqrt()


class Grpo:
    """A_i = (R_i - mean) / (std + eps) within the group; the scale is the sample standard deviation, as in verl."""

    def __init__(self, eps: float = 1e-6, normalize_std: bool = True) -> None:
        self.eps, self.normalize_std = eps, normalize_std

    def advantages(self, scores_B: torch.Tensor, groups_B: Sequence[str], tasks_B: Sequence[str]) -> torch.Tensor:
        """(B,) advantages of scores (B,); a group of one gets 0."""
        ids_B = group_ids(groups_B)
        centred_B = scores_B - group_mean(scores_B, ids_B)
        if not self.normalize_std:
            return centred_B
        return centred_B / (group_std(scores_B, ids_B, unbiased=True) + self.eps)

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"GRPO keeps no state, yet the checkpoint holds {sorted(state)}")

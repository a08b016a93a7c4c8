"""Group-relative advantages (GRPO; CamReasoner section 3.2.2)."""

from collections.abc import Sequence
from typing import Any

import torch


def group_ids(groups_B: Sequence[str], judged_B: torch.Tensor | None = None) -> torch.Tensor:
    """Number the groups 0, 1, ... in order of first appearance: (B,) int64.

    Rows that are not judged are left out of their group: each becomes a group of one, whose advantage is 0.
    """
    number = {group: index for index, group in enumerate(dict.fromkeys(groups_B))}
    ids_B = torch.tensor([number[group] for group in groups_B], dtype=torch.int64)
    if judged_B is None or bool(judged_B.all()):
        return ids_B
    alone = len(number) + torch.arange(len(ids_B))
    return torch.unique(torch.where(judged_B.bool(), ids_B, alone), return_inverse=True)[1]


def group_mean(values_B: torch.Tensor, ids_B: torch.Tensor) -> torch.Tensor:
    """Mean of each element's group, (B,) in double precision: equal rewards differ from their mean by exactly 0."""
    return (torch.bincount(ids_B, weights=values_B.double()) / torch.bincount(ids_B))[ids_B]


def group_std(values_B: torch.Tensor, ids_B: torch.Tensor, unbiased: bool) -> torch.Tensor:
    """Standard deviation of each element's group, (B,); the sample's (n - 1) when `unbiased`, 0 for a group of one."""
    squares = (values_B - group_mean(values_B, ids_B)) ** 2
    sizes = torch.bincount(ids_B)[ids_B].double()
    scale = sizes / (sizes - 1).clamp_min(1) if unbiased else 1.0
    return (group_mean(squares, ids_B) * scale).sqrt()


def normalised(values_B: torch.Tensor, ids_B: torch.Tensor, eps: float, by_std: bool = True) -> torch.Tensor:
    """(B,) A_i = (R_i - mean) / (std + eps) within the group, or R_i - mean; in the precision of `values_B`."""
    advantages_B = values_B - group_mean(values_B, ids_B)
    if by_std:
        scale_B = group_std(values_B, ids_B, unbiased=True) + eps
        advantages_B = advantages_B / scale_B.clamp_min(torch.finfo(scale_B.dtype).tiny)  # 0 / 0 is 0
    return advantages_B.to(values_B.dtype)


class Stateless:
    """What an estimator without a memory has to say of itself."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"this estimator keeps no state, yet the checkpoint holds {sorted(state)}")


class Grpo(Stateless):
    """A_i = (R_i - mean) / (std + eps) within the group; the scale is the sample standard deviation, as in verl."""

    def __init__(self, eps: float = 1e-6, normalize_std: bool = True) -> None:
        self.eps, self.normalize_std = eps, normalize_std

    def advantages(
        self,
        scores_B: torch.Tensor,
        groups_B: Sequence[str],
        tasks_B: Sequence[str],
        judged_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B,) advantages of scores (B,); a group of one gets 0.

        `judged_B`: (B,) false for a row whose reward lacks a verdict; it gets 0 and moves nobody else.
        """
        return normalised(scores_B, group_ids(groups_B, judged_B), self.eps, self.normalize_std)

"""What all advantage estimators share: the batch, the result, the protocol, and statistics of groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Batch:
    """Scored responses whose advantages are estimated together.

    Attributes:
        scores_B: (B,) rewards.
        groups_B: of each row the group: responses to the same prompt.
        tasks_B: of each row the task.
        judged_B: (B,) false for a row whose reward lacks a judge's verdict; None: all are judged.
        perception_B, reasoning_B: (B,) rewards per segment; None where the reward has none.
        perception_tokens_B: (B,) how many of a response's first tokens are perception; the others are reasoning.
        tokens_B: (B,) tokens of each response; None: all responses count alike.
        components: (B,) each, those that all rewards of the batch have.
    """

    scores_B: torch.Tensor
    groups_B: Sequence[str]
    tasks_B: Sequence[str]
    judged_B: torch.Tensor | None = None
    perception_B: torch.Tensor | None = None
    reasoning_B: torch.Tensor | None = None
    perception_tokens_B: torch.Tensor | None = None
    tokens_B: torch.Tensor | None = None
    components: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        components: Sequence[Mapping[str, float]],
        groups_B: Sequence[str],
        tasks_B: Sequence[str],
        scores_B: torch.Tensor | None = None,
        tokens_B: torch.Tensor | None = None,
    ) -> "Batch":
        """The batch of responses with these components of a reward; `scores_B` replaces their `score`."""
        common = [name for name in components[0] if all(name in row for row in components)]
        columns = {name: torch.tensor([row[name] for row in components]) for name in common}
        if scores_B is None:
            scores_B = columns["score"]
        asked = any("unjudged" in row for row in components)
        judged_B = torch.tensor([not row.get("unjudged") for row in components]) if asked else None
        perception_B, reasoning_B, tokens_of_B = map(columns.get, ("perception", "reasoning", "perception_tokens"))
        return cls(
            scores_B, groups_B, tasks_B, judged_B, perception_B, reasoning_B, tokens_of_B, tokens_B, components=columns
        )


@dataclass(frozen=True)
class Advantages:
    """Of a batch.

    Attributes:
        response_B: (B,) of all tokens of a response; of its reasoning where the segments have advantages of their own.
        perception_B: (B,) of its perception; None where an estimator does not distinguish segments.
        perception_tokens_B: as in the batch.
        equal_segments: in the loss the two segments of a response weigh the same, however many tokens each has.
    """

    response_B: torch.Tensor
    perception_B: torch.Tensor | None = None
    perception_tokens_B: torch.Tensor | None = None
    equal_segments: bool = False

    def tokens(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """(B, T) advantages of the tokens, 0 where the response mask (B, T) is 0."""
        return self._spread(self.perception_B, self.response_B, mask_BT)

    def weighted(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """(B, T) the same as a loss takes them that is a mean over the T tokens of a response.

        With `equal_segments` the tokens of a segment are scaled by T / (tokens of the segment): this mean is then the
        sum of the two segments' own means. A clipped objective scales with its advantage, so that the whole term
        of a token is scaled, clipped or not.
        """
        if not self.equal_segments or self.perception_B is None or self.perception_tokens_B is None:
            return self.tokens(mask_BT)
        all_B, seen_B = mask_BT.sum(1), self.perception_tokens_B
        perception_B = self.perception_B * all_B / seen_B.clamp_min(1)
        return self._spread(perception_B, self.response_B * all_B / (all_B - seen_B).clamp_min(1), mask_BT)

    def _spread(
        self, perception_B: torch.Tensor | None, response_B: torch.Tensor, mask_BT: torch.Tensor
    ) -> torch.Tensor:
        if perception_B is None or self.perception_tokens_B is None:
            return response_B.unsqueeze(1) * mask_BT
        # A selection, multiplied in place: products with two masks would allocate four times as much.
        is_perception_BT = torch.arange(mask_BT.shape[1]) < self.perception_tokens_B.unsqueeze(1)
        return torch.where(is_perception_BT, perception_B.unsqueeze(1), response_B.unsqueeze(1)).mul_(mask_BT)


class Estimator(Protocol):
    """An advantage estimator; the arguments of its constructor are the settings of the recipe group `advantage`."""

    @property
    def reads(self) -> frozenset[str]:
        """Components of the reward that it takes in place of the score; empty: it takes the score."""

    def advantages(self, batch: Batch) -> Advantages:
        """Advantages of a batch; a row without a verdict gets 0 and does not affect other rows."""

    def metrics(self) -> dict[str, float]:
        """Of the last batch."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, part of a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state: the next advantages equal those of an uninterrupted run."""


class Stateless:
    """Base of an estimator that depends on the current batch only."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"this estimator keeps no state, but the checkpoint has {sorted(state)}")


class Scored(Stateless):
    """Base of one that takes the score."""

    reads: frozenset[str] = frozenset()


def group_ids(groups_B: Sequence[str], judged_B: torch.Tensor | None = None) -> torch.Tensor:
    """Number the groups 0, 1, ... in order of first appearance: (B,) int64.

    A row that is not judged becomes a group of its own, whose advantage is 0.
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
    """Standard deviation of each element's group, (B,); the sample's (n - 1) if `unbiased`, 0 for a group of one."""
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


def whitened(values_B: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(B,) values minus their mean, over their sample standard deviation, where each token of a response counts.

    verl's `masked_whiten` of values that are the same for all tokens of a response; 0 for a row without a verdict,
    which does not count.
    """
    ones_B = torch.ones_like(values_B, dtype=torch.double)
    counts_B = ones_B if batch.tokens_B is None else batch.tokens_B.double()
    if batch.judged_B is not None:
        counts_B = counts_B * batch.judged_B
    if not bool(counts_B.any()):
        return torch.zeros_like(values_B)
    shifted_B = values_B.double() - values_B[counts_B.argmax()].double()  # equal values become exactly 0
    total = counts_B.sum()
    centred_B = shifted_B - (counts_B * shifted_B).sum() / total
    variance = (counts_B * centred_B**2).sum() / (total - 1).clamp_min(1)
    return (centred_B * (variance + 1e-8).rsqrt() * (counts_B > 0)).to(values_B.dtype)

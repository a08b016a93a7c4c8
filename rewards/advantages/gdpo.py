"""GDPO: each component of the reward is normalised by itself (Liu et al., arXiv 2601.05242, equations 4 to 6)."""

from collections.abc import Mapping

import torch

from rewards.advantages.base import Advantages, Batch, Stateless, group_ids, normalised, whitened
from rewards.errors import UserError


class GdpoError(UserError):
    """Weights that are none, or rewards without a component that has a weight."""


class Gdpo(Stateless):
    """A_i = sum of w_k (R_i,k - mean) / (std + eps) within the group, then normalised over all tokens of the batch.

    As verl's `gdpo` and the authors' code, which count a response by its tokens where equation 6 counts it once.
    The reward's own weights (of format, of fidelity) have no effect: `weights` stand in their place.

    Args:
        weights: of the reward's components, by name.
        eps: added to the standard deviations.

    Example:
        >>> rows = [{"score": 1.0, "accuracy": 1.0, "format": 1.0}, {"score": 0.1, "accuracy": 0.0, "format": 1.0}]
        >>> batch = Batch.of(rows, ["a", "a"], ["binary"] * 2, tokens_B=torch.tensor([10, 10]))
        >>> Gdpo({"accuracy": 1.0, "format": 1.0}).advantages(batch).response_B
        tensor([ 0.9747, -0.9747])
    """

    def __init__(self, weights: Mapping[str, float], eps: float = 1e-6) -> None:
        if not weights:
            raise GdpoError("advantage.weights: give each component of the reward its weight, e.g. {accuracy: 1.0}")
        self.weights, self.eps = dict(weights), eps

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.weights)

    def advantages(self, batch: Batch) -> Advantages:
        """The same for all tokens of a response.

        Raises:
            GdpoError: a component that the rewards do not have.
        """
        if missing := self.reads - batch.components.keys():
            known = ", ".join(sorted(batch.components))
            raise GdpoError(f"advantage.weights.{min(missing)}: not in every reward, these are: {known}")
        ids_B = group_ids(batch.groups_B, batch.judged_B)
        parts = [w * normalised(batch.components[name], ids_B, self.eps) for name, w in self.weights.items()]
        return Advantages(whitened(torch.stack(parts).sum(0), batch))

"""RLOO: the mean of the other responses of the group as baseline (Ahmadian et al., arXiv 2402.14740, section 2.3)."""

import torch

from rewards.advantages.base import Advantages, Batch, Scored, group_ids, normalised


class Rloo(Scored):
    """A_i = R_i - mean of the other responses to the prompt, which is G / (G - 1) (R_i - mean of the group).

    In the paper the formula stands in section 2.3, without a number (equation 9 is of a learnt baseline).

    Example:
        >>> batch = Batch(torch.tensor([1.0, 0.0, 0.0]), groups_B=["a"] * 3, tasks_B=["binary"] * 3)
        >>> Rloo().advantages(batch).response_B
        tensor([ 1.0000, -0.5000, -0.5000])
    """

    def advantages(self, batch: Batch) -> Advantages:
        """The same for all tokens of a response; a group of one gets 0."""
        ids_B = group_ids(batch.groups_B, batch.judged_B)
        sizes_B = torch.bincount(ids_B)[ids_B]
        centred_B = normalised(batch.scores_B, ids_B, eps=0.0, by_std=False)
        return Advantages((centred_B * sizes_B / (sizes_B - 1).clamp_min(1)).to(batch.scores_B.dtype))

"""Dr. GRPO: the group's mean as baseline, and no scale (Liu et al., arXiv 2503.20783, section 3.2)."""

from rewards.advantages.base import Advantages, Batch, Scored, group_ids, normalised


class DrGrpo(Scored):
    """A_i = R_i - mean of its group: questions that are nearly always right or wrong weigh no more than others.

    In the paper the formula stands without a number: section 3.2 in words, appendix A after equation 6 as a formula.
    The paper's other change, a constant instead of each response's length under the sum over its tokens, belongs to
    the loss: `loss.aggregation=constant`.

    Example:
        >>> import torch
        >>> batch = Batch(torch.tensor([1.0, 0.0, 1.0]), groups_B=["a", "a", "b"], tasks_B=["binary"] * 3)
        >>> DrGrpo().advantages(batch).response_B
        tensor([ 0.5000, -0.5000,  0.0000])
    """

    def advantages(self, batch: Batch) -> Advantages:
        """The same for all tokens of a response; a group of one gets 0."""
        ids_B = group_ids(batch.groups_B, batch.judged_B)
        return Advantages(normalised(batch.scores_B, ids_B, eps=0.0, by_std=False))

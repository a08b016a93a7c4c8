"""REINFORCE++: rewards are normalised over the whole batch (Hu et al., arXiv 2501.03262v9, equations 5 to 7)."""

from rewards.advantages.base import Advantages, Batch, Scored, group_ids, normalised, whitened


class ReinforcePp(Scored):
    """A_i = (R_i - mean) / std over all tokens of the batch, each of which has its response's reward (equation 5).

    verl's `reinforce_plus_plus` with gamma = 1, and its `reinforce_plus_plus_baseline`. The paper's KL term in the
    reward (equation 4) is left to the loss (`rl.kl_coef`).

    Args:
        group_baseline: subtract the group's mean first (equations 6 and 7, REINFORCE++ with baseline: for several
            responses to a prompt).

    Example:
        >>> import torch
        >>> batch = Batch(torch.tensor([1.0, 0.0]), ["a", "b"], ["binary"] * 2, tokens_B=torch.tensor([10, 10]))
        >>> ReinforcePp().advantages(batch).response_B
        tensor([ 0.9747, -0.9747])
    """

    def __init__(self, group_baseline: bool = False) -> None:
        self.group_baseline = group_baseline

    def advantages(self, batch: Batch) -> Advantages:
        """The same for all tokens of a response."""
        values_B = batch.scores_B
        if self.group_baseline:
            values_B = normalised(values_B, group_ids(batch.groups_B, batch.judged_B), eps=0.0, by_std=False)
        return Advantages(whitened(values_B, batch))

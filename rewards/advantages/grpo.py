"""Group-relative advantages (GRPO; Shao et al., arXiv 2402.03300, section 4.1.2; CamReasoner section 3.2.2)."""

from rewards.advantages.base import Advantages, Batch, Scored, group_ids, normalised


class Grpo(Scored):
    """A_i = (R_i - mean) / (std + eps) within the group; std is the sample standard deviation, as in verl.

    In the paper the formula stands in the text of section 4.1.2, without a number.

    Args:
        eps: added to the standard deviation.

    Example:
        >>> import torch
        >>> batch = Batch(torch.tensor([1.0, 0.0, 1.0]), groups_B=["a", "a", "b"], tasks_B=["binary"] * 3)
        >>> Grpo().advantages(batch).response_B
        tensor([ 0.7071, -0.7071,  0.0000])
    """

    def __init__(self, eps: float = 1e-6) -> None:
        self.eps = eps

    def advantages(self, batch: Batch) -> Advantages:
        """The same for all tokens of a response; a group of one gets 0."""
        ids_B = group_ids(batch.groups_B, batch.judged_B)
        return Advantages(normalised(batch.scores_B, ids_B, self.eps))

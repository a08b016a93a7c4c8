"""T-GRPO: right answers earn more where a question is answered at least as well in order as with its frames shuffled.

Video-R1 (arXiv 2503.21776), section 3.1, equations 1 and 2: r_t = alpha where p >= mu * p~, else 0, and a right answer
earns R_i = r_i + r_t; p and p~ are the shares of right answers about the clip as it is and about the shuffled one.
"""

from collections.abc import Sequence
from statistics import fmean

RIGHT = 0.1  # an accuracy above it counts as right, as in the published code


def temporal(accuracies: Sequence[float], shuffled: float, ratio: float) -> list[float]:
    """Of each answer of a group, 1 where it earns the temporal reward, else 0.

    Args:
        accuracies: in [0, 1], of the answers about the clip as it is.
        shuffled: mean accuracy of the answers to the same question about the shuffled clip.
        ratio: mu.

    Example:
        >>> temporal([1.0, 1.0, 0.0, 0.0], 0.5, 0.8), temporal([1.0, 0.0, 0.0, 0.0], 0.5, 0.8)
        ([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    """
    earned = fmean(accuracies) >= ratio * shuffled - 1e-9
    return [float(earned and accuracy > RIGHT) for accuracy in accuracies]

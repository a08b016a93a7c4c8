"""Lambda counterfactual of recorded rollouts: R = (1 - lambda) r_acc + lambda r_fmt (CamReasoner, eq. 3).

First order and off-policy: the responses remain those that were sampled, and only their advantages change. It shows
how the first update would differ, not where training would end.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

PARTS = {"accuracy", "format"}  # components of a reward that lambda weighs
NOISE = 1e-6  # differences that only rounding makes


def lambda_counterfactual(
    groups: Sequence[str], components: Sequence[Mapping[str, float]], lambdas: Sequence[float]
) -> list[dict[str, float]]:
    """For each lambda, how its GRPO advantages differ from those of accuracy alone (lambda = 0).

    Where all responses of a group have the same format, lambda cancels out of any advantage that is normalised by the
    rewards' scale.

    Args:
        groups: of each response.
        components: of each response's reward, `accuracy` and `format` among them.
        lambdas: in [0, 1].

    Returns:
        One row per lambda: `lambda`; `matters`, share of groups whose advantages differ; `collapsed`, share of groups
        without any advantage; `sign_flips`, share of responses pushed the opposite way; `format_share`, the part of
        the advantages' absolute size that comes from format: sum |lambda f| / sum (|lambda f| + |(1 - lambda) a|) with
        a and f centred on their group's mean and divided by its rewards' deviation.

    Raises:
        ValueError: no responses, or a lambda outside [0, 1].
    """
    if not groups:
        raise ValueError("no responses")
    if wrong := [value for value in lambdas if not 0 <= value <= 1]:
        raise ValueError(f"lambda {wrong[0]} must be in [0, 1]")
    _, ids_B = np.unique(groups, return_inverse=True)
    sizes_G = np.bincount(ids_B)

    def centred(name: str) -> Floats:
        values_B = np.array([row[name] for row in components], dtype=float)
        values_B = values_B - (np.bincount(ids_B, values_B) / sizes_G)[ids_B]
        return np.where(np.abs(values_B) > NOISE, values_B, 0.0)

    def per_group(any_B: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
        return float((np.bincount(ids_B, any_B) > 0).mean())

    accuracy_B, format_B = centred("accuracy"), centred("format")

    def parts(weight: float) -> tuple[Floats, Floats]:
        """What accuracy and format add to the advantage, (B,) each."""
        reward_B = (1 - weight) * accuracy_B + weight * format_B
        std_B = np.sqrt(np.bincount(ids_B, reward_B**2) / np.maximum(sizes_G - 1, 1))[ids_B]
        scale_B = np.where(std_B > NOISE, 1 / np.maximum(std_B, NOISE), 0.0)
        return (1 - weight) * accuracy_B * scale_B, weight * format_B * scale_B

    without_B = parts(0.0)[0]
    rows = []
    for weight in lambdas:
        of_accuracy_B, of_format_B = parts(weight)
        with_B = of_accuracy_B + of_format_B
        size = np.abs(of_accuracy_B).sum() + np.abs(of_format_B).sum()
        rows.append(
            {
                "lambda": float(weight),
                "matters": per_group(np.abs(with_B - without_B) > NOISE),
                "collapsed": 1 - per_group(np.abs(with_B) > NOISE),
                "sign_flips": float((with_B * without_B < -(NOISE**2)).mean()),
                "format_share": float(np.abs(of_format_B).sum() / size) if size else 0.0,
            }
        )
    return rows

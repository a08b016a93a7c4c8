"""CamReasoner's composite reward (section 3.2.2, equation 3, and section 4.1)."""

from collections.abc import Mapping
from typing import Any

from rewards.response import parse
from rewards.tasks import accuracy


def reward(
    response: str,
    sample: Mapping[str, Any],
    *,
    format_weight: float = 0.1,
    formula: str = "interpolated",
    wrong_penalty: float = 0.0,
    schema: str = "ota",
) -> dict[str, float]:
    """Components and total of one response.

    Args:
        response: the response alone.
        sample: a sample's fields, of any task that a rule scores.
        format_weight: lambda.
        formula: "interpolated", (1 - lambda) r_acc + lambda r_fmt (equation 3), or "additive",
            r_acc + lambda r_fmt (section 4.1). Under an advantage that is normalised by the rewards' scale the
            two are one family: additive with lambda' = lambda / (1 - lambda) is interpolated with lambda
            (docs/rewards.md).
        wrong_penalty: subtracted from r_acc of a well-formed wrong answer (the paper's "penalty"; its code uses 0).
        schema: of the response.

    Returns:
        `score` and its parts: `format` in {0, 1}; `accuracy` in [0, 1], 0 when malformed.

    Raises:
        ValueError, KeyError: a malformed sample or setting; never because of the response.
    """
    parsed = parse(response, schema)
    r_fmt = float(parsed.ok)
    acc = accuracy(parsed.answer, sample, parsed.glue) if parsed.ok else 0.0
    r_acc = acc - wrong_penalty * (1.0 - acc) if parsed.ok else 0.0
    if formula == "interpolated":
        score = (1 - format_weight) * r_acc + format_weight * r_fmt
    elif formula == "additive":
        score = r_acc + format_weight * r_fmt
    else:
        raise ValueError(f"reward formula {formula!r}: choose interpolated or additive")
    return {"score": score, "accuracy": acc, "format": r_fmt}

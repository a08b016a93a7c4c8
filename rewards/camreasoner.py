"""CamReasoner's composite reward (section 3.2.2, equation 3, and section 4.1)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from rewards.motions import fidelity
from rewards.response import ParsedResponse
from rewards.tasks import accuracy


def reward(
    response: ParsedResponse,
    sample: Mapping[str, Any],
    *,
    format_weight: Annotated[float, Ge(0)] = 0.1,
    formula: Literal["interpolated", "additive"] = "interpolated",
    wrong_penalty: float = 0.0,
    fidelity_weight: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> dict[str, float]:
    """Components and total of one response.

    Args:
        response, sample: as parsed by its schema; a sample's fields, of any task that a rule scores.
        format_weight: lambda; at most 1 in the formula "interpolated".
        formula: "interpolated", (1 - lambda) r_acc + lambda r_fmt (equation 3), or "additive", r_acc + lambda r_fmt
            (section 4.1); how the two hang together: docs/rewards.md.
        wrong_penalty: subtracted from r_acc of a well-formed wrong answer (the paper's "penalty"; its code uses 0).
        fidelity_weight: mu, of the observation, in [0, 1]. Where the sample knows what the camera does
            (`extras["motion"]`), the score is (1 - mu) times the above + mu r_fid, with `rewards.motions.fidelity` as
            r_fid. Not in the paper, which pays an answer whatever was observed.

    Returns:
        `score` and its parts: `format` in {0, 1}; `accuracy` in [0, 1], 0 when malformed. With a `fidelity_weight`
        also `fidelity` in [0, 1], 0 when malformed or unknown, and `motion_known` in {0, 1}.

    Raises:
        ValueError, KeyError: a malformed sample or setting; never because of the response.

    Example:
        >>> from rewards.response import parse
        >>> sample = {"task": "binary", "options": ["No", "Yes"], "answer": "B"}
        >>> response = parse("<observation>o</observation><think>t</think><answer>No</answer>")
        >>> reward(response, sample, format_weight=0.25)
        {'score': 0.25, 'accuracy': 0.0, 'format': 1.0}
        >>> reward(parse("<answer>Yes</answer>"), sample)
        {'score': 0.0, 'accuracy': 0.0, 'format': 0.0}
        >>> seen = "<observation>It grows, near and far alike.</observation><think>t</think><answer>No</answer>"
        >>> reward(parse(seen), sample | {"extras": {"motion": "zoom_in"}}, fidelity_weight=0.5)
        {'score': 0.55, 'accuracy': 0.0, 'format': 1.0, 'fidelity': 1.0, 'motion_known': 1.0}
    """
    r_fmt = float(response.ok)
    acc = accuracy(response.parts["answer"], sample, response.glue) if response.ok else 0.0
    r_acc = acc - wrong_penalty * (1.0 - acc) if response.ok else 0.0
    if formula == "interpolated":
        if format_weight > 1:
            raise ValueError(f"format_weight {format_weight:g} would pay wrong answers more than right ones: at most 1")
        score = (1 - format_weight) * r_acc + format_weight * r_fmt
    elif formula == "additive":
        score = r_acc + format_weight * r_fmt
    else:
        raise ValueError(f"reward formula {formula!r}: choose interpolated or additive")
    components = {"score": score, "accuracy": acc, "format": r_fmt}
    if not fidelity_weight:
        return components
    motion = sample.get("extras", {}).get("motion")
    if motion is None:
        return components | {"fidelity": 0.0, "motion_known": 0.0}
    r_fid = fidelity(response.parts.get("observation", ""), motion) if response.ok else 0.0
    score = (1 - fidelity_weight) * score + fidelity_weight * r_fid
    return components | {"score": score, "fidelity": r_fid, "motion_known": 1.0}

"""What the viewer's index keeps of an answer, so that answers can be filtered and ordered without being read."""

import json
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from evaluation.grading import MALFORMED as MALFORMED_OUTCOMES
from evaluation.grading import RIGHT, Graded
from evaluation.rollouts.records import Rollout
from evaluation.viewer.segments import texts
from rewards.errors import problems
from rewards.judges.rules import RuleJudge, has_rule
from rewards.motions import stated_motion
from rewards.reading import chosen_option

Kind = TypeVar("Kind", bound=BaseModel)
MALFORMED, MISMATCH, UNFAITHFUL, CUT = 1, 2, 4, 8  # flags


class Facts(NamedTuple):
    """Of one answer.

    Attributes:
        label: number of the rollout, or name of the model.
        rank: place among the answers of its group.
        control: under which the question was asked; empty: none.
        score: None where it is no finite number.
        high, low: the highest and lowest advantage of its tokens; None where it was not trained on.
        right: 1 or 0; None where that is unknown.
        chosen: index of the option chosen.
        flags: MALFORMED; MISMATCH, the thought leads to another answer; UNFAITHFUL, a right answer with a false
            observation, or the reverse; CUT at the token limit.
    """

    label: str
    rank: int
    control: str
    score: float | None
    high: float | None
    low: float | None
    right: int | None
    chosen: int | None
    flags: int


def of_rollout(rollout: Rollout) -> Facts:
    """By what the trainer recorded."""
    sample, response = rollout.sample, "" if rollout.malformed else rollout.response
    chosen, stated = _read(response, tuple(sample.get("options") or ()))
    accuracy = rollout.components.get("accuracy")
    right = None if accuracy is None else int(accuracy >= RIGHT)
    advantages = [a for a in (rollout.advantage, rollout.advantage_perception) if a is not None and isfinite(a)]
    flags = MALFORMED * (rollout.malformed is not None) | MISMATCH * bool(rollout.mismatch) | CUT * rollout.truncated
    flags |= UNFAITHFUL * unfaithful(stated, (sample.get("extras") or {}).get("motion"), right)
    number = rollout.rollout.split("_")[1] if rollout.rollout.count("_") == 2 else rollout.rollout
    return Facts(
        label=number,
        rank=int(number) if number.isdigit() else 0,
        control="",
        score=rollout.score if isfinite(rollout.score) else None,
        high=max(advantages, default=None),
        low=min(advantages, default=None),
        right=right,
        chosen=chosen,
        flags=flags,
    )


@lru_cache(4096)  # rollouts of a prompt are often the same
def _read(response: str, options: tuple[str, ...]) -> tuple[int | None, str | None]:
    """Index of the option that a response chooses; and the motion that its observation states, "" where it states none,
    None where it has no observation."""
    said = texts(response)
    chosen = chosen_option(said.get("answer", ""), options) if options else None
    return chosen, (stated_motion(said["observation"]) or "") if "observation" in said else None


def of_prediction(model: str, rank: int, control: str, j: Graded, leads: bool | None) -> Facts:
    """By the rules of grading.

    Args:
        leads: whether the thought leads to the answer; None where no rule decides.
    """
    known = j.outcome in ("right", "wrong")
    flags = MALFORMED * (j.outcome in (*MALFORMED_OUTCOMES, "failed")) | CUT * j.truncated | MISMATCH * (leads is False)
    stated = None if j.parsed.observation is None else j.stated or ""
    flags |= UNFAITHFUL * (known and unfaithful(stated, j.motion, int(j.right)))
    return Facts(
        label=model,
        rank=rank,
        control=control,
        score=j.value,
        high=None,
        low=None,
        right=None if j.outcome == "unjudged" else int(j.right),
        chosen=None if j.chosen is None else j.sample.options.index(j.chosen),
        flags=flags,
    )


def unfaithful(stated: str | None, motion: str | None, right: int | None) -> bool:
    """Whether a right answer has a false observation, or a wrong answer a true one; False where that is unknown.

    Args:
        stated: the motion that the observation states; empty: none. None: there is no observation.
        motion: that the clip shows; None where that is unknown.

    Example:
        >>> unfaithful("pan_right", "pan_right", 0), unfaithful("", "pan_right", 1), unfaithful("", None, 1)
        (True, True, False)
    """
    return None not in (stated, motion, right) and (stated == motion) != bool(right)


async def thought_leads(j: Graded) -> bool | None:
    """Whether a thought leads to its answer, by the motion lexicon; None where that has no rule."""
    if not j.parsed.ok or j.parsed.think is None or not has_rule(vars(j.sample)):
        return None
    return await RuleJudge().consistent(j.parsed.think, j.answer, vars(j.sample))


def record_of(kind: type[Kind], said: Mapping[str, Any] | bytes) -> Kind:
    """The rollout, prediction or sample of a line, or of fields. Raises ValueError that says what is wrong."""
    try:
        return kind.model_validate(json.loads(said) if isinstance(said, bytes) else said)
    except ValidationError as error:
        raise ValueError(problems(error, kind.__name__.lower())[0]) from error

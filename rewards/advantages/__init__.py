"""Advantage estimators over a batch of scored responses. The only part of `rewards` that needs torch."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from rewards.advantages.base import Advantages, Batch, Estimator
from rewards.advantages.dr_grpo import DrGrpo
from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.gdpo import Gdpo
from rewards.advantages.grpo import Grpo
from rewards.advantages.pa_grpo import PaGrpo
from rewards.advantages.reinforce_pp import ReinforcePp
from rewards.advantages.rloo import Rloo
from rewards.errors import UserError
from rewards.scorer import checked

ESTIMATORS: dict[str, type[Estimator]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "reinforce_pp": ReinforcePp,
    "gdpo": Gdpo,
    "ema_grpo": EmaGrpo,
    "pa_grpo": PaGrpo,
}

__all__ = ["ESTIMATORS", "AdvantageError", "Advantages", "Batch", "Estimator", "build"]


class AdvantageError(UserError):
    """An unknown advantage estimator, or a setting that it does not take; the message names it."""


def build(settings: Mapping[str, Any]) -> Estimator:
    """The estimator of a recipe: `{"name": ..., **settings}`.

    Raises:
        AdvantageError: naming an unknown estimator or what is wrong with a setting.

    Example:
        >>> build({"name": "ema_grpo", "decay": 0.9}).state_dict()
        {}
    """
    name = settings.get("name")
    if name not in ESTIMATORS:
        raise AdvantageError(f"advantage.name={name}: choose from {', '.join(ESTIMATORS)}")
    try:
        return ESTIMATORS[name](**checked("advantage", settings, signature(ESTIMATORS[name]).parameters))
    except ValueError as error:
        raise AdvantageError(str(error)) from error

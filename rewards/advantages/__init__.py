"""Advantage estimators over a batch of scored responses. The only part of `rewards` that needs torch."""

from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.grpo import Grpo

ESTIMATORS = {"grpo": Grpo, "ema_grpo": EmaGrpo}

__all__ = ["ESTIMATORS", "EmaGrpo", "Grpo"]

"""Advantage estimators over a batch of scored responses. The only part of `rewards` that needs torch.

`advantages(scores_B, groups_B, tasks_B)` gives (B,), one number for all tokens of a response. An estimator that tells
tokens apart has `token_advantages` instead, (B, T).
"""

from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.grpo import Grpo
from rewards.advantages.pa_grpo import PaGrpo

ESTIMATORS = {"grpo": Grpo, "ema_grpo": EmaGrpo, "pa_grpo": PaGrpo}

__all__ = ["ESTIMATORS", "EmaGrpo", "Grpo", "PaGrpo"]

"""The recipe's loss as verl's keys: its own registered losses (trainer/ppo/core_algos.py), none of ours."""

from typing import Any

from launch.recipe import Recipe

_MODE = {"grpo": "vanilla", "dapo": "vanilla", "gspo": "gspo", "cispo": "cispo", "sapo": "sapo"}
_AGGREGATION = {
    "token_mean": "token-mean",
    "response_mean": "seq-mean-token-mean",
    "constant": "seq-mean-token-sum-norm",
}
_NEVER = 1e9  # a dual clip beyond every ratio: verl bounds their logarithms by 20


def loss_keys(recipe: Recipe) -> dict[str, Any]:
    """verl's keys of `loss=`.

    `constant` divides by rl.max_response_length; verl alone would take the longest response of a micro-batch.
    """
    loss = recipe.loss
    actor: dict[str, Any] = {"policy_loss.loss_mode": _MODE[loss.name], "loss_agg_mode": _AGGREGATION[loss.aggregation]}
    if loss.aggregation == "constant":
        actor["loss_scale_factor"] = recipe.rl.max_response_length
    if loss.name == "sapo":
        actor |= {"tau_pos": loss.tau_pos, "tau_neg": loss.tau_neg}
    else:
        actor |= {"clip_ratio": loss.clip_low, "clip_ratio_low": loss.clip_low, "clip_ratio_high": loss.clip_high}
    if loss.name in ("grpo", "dapo"):
        actor["clip_ratio_c"] = loss.dual_clip or _NEVER
    keys = {f"actor_rollout_ref.actor.{name}": value for name, value in actor.items()}
    if correction := loss.rollout_correction:
        keys["algorithm.rollout_correction.rollout_is"] = correction.level
        keys["algorithm.rollout_correction.rollout_is_threshold"] = correction.threshold
    return keys

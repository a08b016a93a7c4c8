"""A recipe as EasyR1's configuration (0.3.3, commit b44b311) and data.

What EasyR1 cannot do is refused (docs/cluster.md): its rewards see a response and one string, into which the sample is
packed; its advantages know no task, no segments and no state; its prompts have no system turn.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from data_tools.files import whole_file, write_text
from data_tools.sample import read_samples
from launch.engines.template import fill
from launch.errors import LaunchError
from launch.recipe import Recipe, RecipeError
from launch.run import Run
from rewards.scorer import Scorer

HERE = Path(__file__).resolve().parent
# What `rl.engine` sets by verl's names and EasyR1 has too, with the value where it is not set.
_ENGINE = {
    "max_grad_norm": ("actor_rollout_ref.actor.grad_clip", 1.0),
    "lr_scheduler_type": ("actor_rollout_ref.actor.optim.lr_scheduler_type", "constant"),
    "top_p": ("actor_rollout_ref.rollout.top_p", 1.0),
}
_AGGREGATION = {"token_mean": "token", "response_mean": "seq"}


def check(recipe: Recipe) -> None:
    """Raise for what EasyR1 has no place for.

    Raises:
        RecipeError: naming the key.
    """
    if recipe.advantage.name != "grpo":
        raise RecipeError(
            f"advantage={recipe.advantage.name}: EasyR1's estimators know no task, no segment and keep no state; "
            "take advantage=grpo, or verl (python -m launch.rl)"
        )
    if Scorer({"name": recipe.reward.name, **recipe.reward.settings}).counts_tokens:
        raise RecipeError(f"reward={recipe.reward.name}: EasyR1 counts no tokens per segment; take another, or verl")
    if recipe.prompt.system:
        raise RecipeError("prompt.system: EasyR1's prompts have no system turn; leave it empty")
    if recipe.rl.filter.enabled and recipe.rl.filter.mode != "mean":
        raise RecipeError("rl.filter.mode: EasyR1 filters by the mean only")
    if recipe.rl.twins.turns:
        raise RecipeError("rl.twins: EasyR1 draws its prompts in any order; take turns: [], or verl")
    if recipe.rl.by_difficulty:
        raise RecipeError("rl.by_difficulty: EasyR1 gets all prompts; take false, or verl")
    if recipe.lora:
        raise RecipeError("lora: EasyR1 is only told to train all weights; take lora=null, or verl")
    if recipe.media.most_images:
        raise RecipeError(
            "media: EasyR1 scales images and videos to one size; take images=null and as_images=false, or verl"
        )
    loss = recipe.loss
    if loss.name not in ("grpo", "dapo") or loss.overlong or loss.rollout_correction:
        raise RecipeError(f"loss={loss.name}: here EasyR1 has the clipped loss without overlong and rollout_correction")
    if loss.dual_clip is None or loss.aggregation not in _AGGREGATION:
        raise RecipeError("loss: EasyR1 needs loss.dual_clip, and has no loss.aggregation=constant")
    if "trackio" in recipe.tracking:
        raise RecipeError("tracking: EasyR1 has no trackio")
    if recipe.cluster.device != "cuda":
        raise RecipeError("cluster.device: EasyR1 needs GPUs")


def left_out(recipe: Recipe) -> list[str]:
    """Keys of `rl.engine`, which are verl's, that have no counterpart here."""
    return sorted(set(recipe.rl.engine) - {key for key, _ in _ENGINE.values()})


def render(run: Run, model: str) -> dict[str, Any]:
    """EasyR1's configuration, from config.yaml beside this file."""
    recipe, rl = run.recipe, run.recipe.rl
    longest = rl.max_prompt_length + rl.max_response_length
    engine = {name: rl.engine.get(key, default) for name, (key, default) in _ENGINE.items()}
    values = engine | {
        "folder": str(folder_of(run).absolute()),
        "model": model,
        "disable_kl": rl.kl_coef == 0,
        "use_kl_loss": rl.kl_coef > 0,
        "filter_key": "overall" if rl.filter.metric == "score" else rl.filter.metric,
        "loss_avg_mode": _AGGREGATION[recipe.loss.aggregation],
        "max_model_len": longest,
        "max_num_batched_tokens": max(rl.rollout.max_num_batched_tokens, longest),
        "reward": {"name": recipe.reward.name, **recipe.reward.settings},
        "reward_file": str(HERE / "reward.py"),
        "logger": ["file", "tensorboard", *recipe.tracking],
    }
    return fill([HERE / "config.yaml"], recipe, values)


def folder_of(run: Run) -> Path:
    return run.folder / "easyr1"


def prompts(run: Run) -> Iterator[dict[str, Any]]:
    """What EasyR1 reads per prompt; `answer`, the sample as JSON text, is the one thing that reaches the reward."""
    form = run.recipe.form
    for sample in read_samples(run.data / "rl.jsonl"):
        yield {
            "prompt": form.messages(sample)[-1]["content"],
            "videos": [str((run.media_root / name).resolve()) for name in sample.media],
            "answer": sample.model_dump_json(exclude_none=True),
        }


def write(run: Run, model: str) -> Path:
    """Write EasyR1's configuration and prompts into the run folder, and return the configuration's path.

    Raises:
        RecipeError: see `check`.
        LaunchError: no prompts.
    """
    check(run.recipe)
    folder, empty = folder_of(run), True
    with whole_file(folder / "rl.jsonl") as out:
        for row in prompts(run):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            empty = False
    if empty:
        raise LaunchError(f"{run.data / 'rl.jsonl'} has no prompts: run the stage 'data' first")
    write_text(folder / "config.yaml", yaml.safe_dump(render(run, model), sort_keys=False))
    return folder / "config.yaml"

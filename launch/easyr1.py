"""Render a recipe for EasyR1 (0.3.3), the other RL engine: its configuration, its data, its reward function.

python -m launch.easyr1 experiment=camreasoner ...     writes runs/<experiment>/<name>/easyr1/ and says how to start it

EasyR1 calls its own package `verl` and asks for transformers < 5, so it lives in an environment of its own; nothing of
it is imported here. What it cannot do is refused or said (docs/cluster.md): its rewards see a response and one string
(the sample is packed into it), advantages have no task, no segments and no state, a prompt has no system turn.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe, RecipeError, command
from launch.run import Run, console, open_run

ADVANTAGES = {"grpo": "grpo"}
REWARDS = ("camreasoner", "videochat_r1")  # videop2r needs token counts by segment, which EasyR1 does not hand over
_REWARD = '''\
"""The recipe's reward for EasyR1: written by launch/easyr1.py, reads the sample that is packed into `ground_truth`."""

import asyncio
import inspect
import json
import sys

sys.path.insert(0, {root!r})
from rewards.judge import build  # noqa: E402
from rewards.registry import REWARDS  # noqa: E402

REWARD_NAME = {name!r}
REWARD_TYPE = "batch"
JUDGE = build({judge!r})


async def _scores(reward_inputs, settings):
    reward = REWARDS[REWARD_NAME]
    extra = {{"judge": JUDGE}} if "judge" in inspect.signature(reward).parameters else {{}}

    async def one(given):
        components = reward(given["response"], json.loads(given["ground_truth"]), **extra, **settings)
        return await components if inspect.isawaitable(components) else components

    return await asyncio.gather(*map(one, reward_inputs))


def compute_score(reward_inputs, **settings):
    """Components of each response; EasyR1 takes `overall`."""
    return [{{"overall": score.pop("score"), **score}} for score in asyncio.run(_scores(reward_inputs, settings))]
'''


def check(recipe: Recipe) -> None:
    """Raise for what EasyR1 has no place for.

    Raises:
        RecipeError: naming the key.
    """
    if recipe.advantage.name not in ADVANTAGES:
        raise RecipeError(
            f"advantage={recipe.advantage.name}: EasyR1's estimators know no task, no segment and keep no state; "
            "take advantage=grpo, or verl (python -m launch.rl)"
        )
    if recipe.reward.name not in REWARDS:
        raise RecipeError(
            f"reward={recipe.reward.name}: EasyR1 counts no tokens by segment; choose of {', '.join(REWARDS)}"
        )
    if recipe.data.system:
        raise RecipeError("data.system: EasyR1's prompts have no system turn; leave it empty")
    if recipe.rl.filter.enabled and recipe.rl.filter.mode != "mean":
        raise RecipeError("rl.filter.mode: EasyR1 filters by the mean alone")
    if recipe.cluster.device != "cuda":
        raise RecipeError("cluster.device: EasyR1 needs GPUs")


def render(run: Run, model: str, folder: Path) -> dict[str, Any]:
    """EasyR1's own keys (verl/trainer/config.py there), for its `config=` argument."""
    recipe, rl, cluster = run.recipe, run.recipe.rl, run.recipe.cluster
    engine = rl.engine
    offload = {"offload_params": cluster.offload, "offload_optimizer": cluster.offload}
    return {
        "data": {
            "train_files": str(folder / "rl.jsonl"),
            "val_files": str(folder / "rl.jsonl"),  # read, never used: evaluation is a stage of its own
            "prompt_key": "prompt",
            "answer_key": "answer",
            "video_key": "videos",
            "video_fps": recipe.media.fps,
            "max_prompt_length": rl.max_prompt_length,
            "max_response_length": rl.max_response_length,
            "rollout_batch_size": rl.rollout_batch_size,
            "val_batch_size": 1,
            "seed": recipe.seed,
            "min_pixels": recipe.media.min_pixels,
            "max_pixels": recipe.media.max_pixels,
        },
        "algorithm": {
            "adv_estimator": ADVANTAGES[recipe.advantage.name],
            "disable_kl": rl.kl_coef == 0,
            "use_kl_loss": rl.kl_coef > 0,
            "kl_penalty": "low_var_kl",
            "kl_coef": rl.kl_coef,
            "online_filtering": rl.filter.enabled,
            "filter_key": "overall" if rl.filter.metric == "score" else rl.filter.metric,
            "filter_low": rl.filter.low,
            "filter_high": rl.filter.high,
        },
        "worker": {
            "actor": {
                "global_batch_size": rl.global_batch_size,
                "micro_batch_size_per_device_for_update": rl.micro_batch_size_per_gpu,
                "micro_batch_size_per_device_for_experience": rl.micro_batch_size_per_gpu,
                "max_grad_norm": engine.get("actor_rollout_ref.actor.grad_clip", 1.0),
                "clip_ratio_low": rl.clip_ratio,
                "clip_ratio_high": engine.get("actor_rollout_ref.actor.clip_ratio_high", rl.clip_ratio),
                "loss_avg_mode": "seq" if "seq" in engine.get("actor_rollout_ref.actor.loss_agg_mode", "") else "token",
                "model": {
                    "model_path": model,
                    "trust_remote_code": recipe.model.trust_remote_code,
                    "freeze_vision_tower": rl.freeze_vision_tower,
                },
                "optim": {
                    "lr": rl.learning_rate,
                    "weight_decay": rl.weight_decay,
                    "lr_scheduler_type": engine.get("actor_rollout_ref.actor.optim.lr_scheduler_type", "constant"),
                },
                "offload": offload,
            },
            "rollout": {
                "n": rl.group_size,
                "temperature": rl.temperature,
                "top_p": engine.get("actor_rollout_ref.rollout.top_p", 1.0),
                "seed": recipe.seed,
                "gpu_memory_utilization": rl.rollout.gpu_memory_utilization,
                "enforce_eager": rl.rollout.enforce_eager,
                "tensor_parallel_size": rl.rollout.tensor_parallel_size,
                "max_model_len": rl.max_prompt_length + rl.max_response_length,
                "max_num_batched_tokens": max(
                    rl.rollout.max_num_batched_tokens, rl.max_prompt_length + rl.max_response_length
                ),
            },
            "ref": {"offload": {"offload_params": True}},
            "reward": {
                "reward_function": f"{folder / 'reward.py'}:compute_score",
                "reward_function_kwargs": recipe.reward.settings,
            },
        },
        "trainer": {
            "total_epochs": rl.epochs,
            "max_steps": rl.steps,
            "project_name": "camreasoner",
            "experiment_name": f"{recipe.experiment}-{recipe.name}",
            "logger": ["file", "tensorboard", *recipe.tracking],
            "nnodes": cluster.nodes,
            "n_gpus_per_node": cluster.gpus_per_node,
            "max_try_make_batch": rl.filter.max_rounds,
            "val_freq": -1,
            "val_before_train": False,
            "save_freq": rl.save_every,
            "save_limit": rl.keep_checkpoints,
            "save_checkpoint_path": str(folder / "checkpoints"),
        },
    }


def reward_file(recipe: Recipe) -> str:
    """Source of the reward function that EasyR1 loads."""
    return _REWARD.format(root=str(ROOT), name=recipe.reward.name, judge=recipe.judge.model_dump())


def rows(run: Run) -> list[dict[str, Any]]:
    """What EasyR1 reads per prompt; `answer` is the sample as JSON text, the one thing that reaches the reward."""
    from data_tools.prompt import user_text
    from data_tools.sample import read_samples

    instruction, root = run.recipe.data.instruction, run.media_root
    return [
        {
            "prompt": user_text(sample, instruction),
            "videos": [str((root / sample.video).resolve())],
            "answer": sample.model_dump_json(exclude_none=True),
        }
        for sample in read_samples(run.data / "rl.jsonl")
    ]


def write(run: Run, model: str) -> Path:
    """Write all that EasyR1 needs into the run folder."""
    check(run.recipe)
    folder = run.folder / "easyr1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(render(run, model, folder), sort_keys=False))
    (folder / "reward.py").write_text(reward_file(run.recipe))
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(run)]
    if not lines:
        raise LaunchError(f"{run.data / 'rl.jsonl'} holds no prompts")
    (folder / "rl.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@command
def main(recipe: Recipe) -> None:
    check(recipe)
    run = open_run(recipe)
    run.require("data", *(["sft"] if recipe.rl.start_epoch else []))
    folder = write(run, run.sft_checkpoint(recipe.rl.start_epoch))
    console.print(f"  {folder}\n  in EasyR1's environment: python -m verl.trainer.main config={folder / 'config.yaml'}")


if __name__ == "__main__":
    main()

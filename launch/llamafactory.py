"""Render a recipe into LLaMA-Factory's SFT configuration (version 0.9.5)."""

import json
import math
from typing import Any

from launch.recipe import ROOT, Recipe, RecipeError
from launch.run import Run

# Of a clip that holds the budget's frames and no other; LLaMA-Factory still derives the seconds between frames from the
# clip itself (data/mm_plugin.py:1963). A clip's steps are whole milliseconds, so that there is none faster; and it is a
# power of two, by which the seconds that Qwen3-VL reads as text are divided without rounding.
EVERY_FRAME = 1024.0


def render(run: Run) -> dict[str, Any]:
    """LLaMA-Factory's own keys; `recipe.sft.engine` is laid over them."""
    recipe, sft = run.recipe, run.recipe.sft
    cpu = recipe.cluster.device == "cpu"
    return {
        # model
        "model_name_or_path": run.base_model,
        "trust_remote_code": recipe.model.trust_remote_code,
        "template": recipe.model.template,
        "flash_attn": "sdpa" if cpu else "fa2",
        # media budget
        "video_fps": EVERY_FRAME,
        "video_maxlen": recipe.media.max_frames,
        "video_max_pixels": recipe.media.max_pixels,
        "video_min_pixels": recipe.media.min_pixels,
        # method
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "freeze_vision_tower": sft.freeze_vision_tower,
        "freeze_multi_modal_projector": sft.freeze_multi_modal_projector,
        "freeze_language_model": False,
        "deepspeed": "recipes/sft/zero3_offload.json" if recipe.cluster.offload else sft.deepspeed,
        # data
        "dataset_dir": str(run.data / "llamafactory"),
        "media_dir": str(run.media_root),
        "dataset": "sft",
        "cutoff_len": sft.cutoff_len,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1 if cpu else 16,
        "dataloader_num_workers": 0 if cpu else 4,
        # training
        "num_train_epochs": sft.num_train_epochs,
        "learning_rate": sft.learning_rate,
        "lr_scheduler_type": sft.lr_scheduler_type,
        "warmup_steps": sft.warmup_steps,
        "per_device_train_batch_size": sft.per_device_train_batch_size,
        "gradient_accumulation_steps": sft.gradient_accumulation_steps,
        "weight_decay": sft.weight_decay,
        "max_grad_norm": sft.max_grad_norm,
        "disable_gradient_checkpointing": cpu,
        "use_cpu": cpu,
        "bf16": recipe.model.dtype == "bfloat16",
        "fp16": False,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        # output: the optimizer is saved too, so that a killed run goes on from its last epoch
        "output_dir": str(run.folder / "sft"),
        "save_strategy": "epoch",
        "save_only_model": False,
        "logging_steps": 5,
        "plot_loss": False,
        "report_to": recipe.tracking or "none",
        **sft.engine,
    }


def global_batch_size(recipe: Recipe) -> int:
    """Chains per optimizer step."""
    sft, cluster = recipe.sft, recipe.cluster
    return sft.per_device_train_batch_size * sft.gradient_accumulation_steps * cluster.gpus_per_node


def total_steps(recipe: Recipe, samples: int) -> int:
    """Optimizer steps of all epochs over `samples` chains."""
    return math.ceil(samples / global_batch_size(recipe)) * recipe.sft.num_train_epochs


def check(config: dict[str, Any]) -> None:
    """Have LLaMA-Factory's own parser check a rendered configuration; needs no GPU, no model and no data.

    Raises:
        RecipeError: naming the key.
    """
    from typing import get_type_hints

    from llamafactory.hparams.parser import _TRAIN_ARGS, get_train_args
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # The parser takes values of any type (transformers, HfArgumentParser.parse_dict).
    hints = {key: hint for part in _TRAIN_ARGS for key, hint in get_type_hints(part).items()}
    for key in config.keys() & hints.keys():
        try:
            TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(config[key])
        except ValidationError as error:
            raise RecipeError(f"LLaMA-Factory refuses {key}={config[key]!r}: {error.errors()[0]['msg']}") from error
    if config["deepspeed"] is not None:
        try:
            json.loads((ROOT / config["deepspeed"]).read_text())
        except (OSError, ValueError) as error:
            raise RecipeError(f"sft.deepspeed: {error}") from error
    # Whether this machine has GPUs and DeepSpeed is no matter of the recipe.
    anywhere = config | {"use_cpu": True, "deepspeed": None}
    try:
        get_train_args(anywhere)
    except (AssertionError, TypeError, ValueError) as error:
        raise RecipeError(f"LLaMA-Factory refuses the configuration: {error}") from error

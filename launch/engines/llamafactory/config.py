"""Render a recipe into LLaMA-Factory's SFT configuration (version 0.9.5)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from launch.engines.template import fill
from launch.recipe import ROOT, Recipe, RecipeError
from launch.run import Run

# Frames per second asked of LLaMA-Factory: a clip already has the frames of the budget, and all are taken. The seconds
# between frames still come from the clip itself (data/mm_plugin.py:1963). No clip is faster, since its steps are whole
# milliseconds; and by a power of two, the seconds that Qwen3-VL reads as text are divided without rounding.
EVERY_FRAME = 1024.0
# What `sft.engine` must leave: later stages look for a checkpoint per epoch, of whole weights or of `lora`'s adapters.
_DECIDED = {
    "finetuning_type": "lora=rank64 trains adapters, lora=null all weights",
    "save_strategy": "each epoch leaves a checkpoint",
    "save_total_limit": "each epoch leaves a checkpoint",
    "max_steps": "sft.num_train_epochs says how long it trains",
}


def render(run: Run) -> dict[str, Any]:
    """LLaMA-Factory's own keys, from config.yaml beside this file; `recipe.sft.engine` is laid over them.

    Raises:
        RecipeError: `sft.engine` has a key that the recipe decides.
    """
    _leave_to_recipe(run.recipe)
    recipe, folder, cpu = run.recipe, run.paths, run.recipe.cluster.device == "cpu"
    values = {
        "cpu": cpu,
        "model": run.base_model,
        "flash_attn": "sdpa" if cpu else "fa2",
        "video_fps": EVERY_FRAME,
        # Bounds that hold of all clips: each has its frames and its size already.
        "video_maxlen": max(media.max_frames for media in recipe.trained_media),
        "video_max_pixels": max(media.max_pixels for media in recipe.trained_media),
        "video_min_pixels": min(media.min_pixels for media in recipe.trained_media),
        "deepspeed": "launch/engines/llamafactory/zero3_offload.json"
        if recipe.cluster.offload
        else recipe.sft.deepspeed,
        "dataset_dir": str(folder.llamafactory_data),
        "media_dir": str(run.media_root),
        "preprocessing_workers": 1 if cpu else 16,
        "dataloader_workers": 0 if cpu else 4,
        "bf16": recipe.model.dtype == "bfloat16",
        "output_dir": str(folder.sft),
        # transformers 5.9 sends what it logs to trackio to a public page after the training, unasked.
        "report_to": [name for name in recipe.tracking if name != "trackio"] or "none",
    }
    here, templates = Path(__file__).parent, ["config.yaml"]
    if recipe.lora:
        values["lora_target"] = recipe.lora.targets if recipe.lora.targets == "all" else ",".join(recipe.lora.targets)
        templates.append("config_lora.yaml")
    return fill([here / name for name in templates], recipe, values) | _image_bounds(recipe) | recipe.sft.engine


def _image_bounds(recipe: Recipe) -> dict[str, int]:
    """Bounds that hold of all images: each has its size already, and LLaMA-Factory's own would shrink some."""
    pixels = [media.image_pixels for media in recipe.trained_media if media.image_pixels]
    if not pixels:
        return {}
    return {"image_max_pixels": max(most for _, most in pixels), "image_min_pixels": min(few for few, _ in pixels)}


def _leave_to_recipe(recipe: Recipe) -> None:
    for key in recipe.sft.engine:
        reason = _DECIDED["finetuning_type"] if key.startswith("lora_") else _DECIDED.get(key)
        if reason:
            raise RecipeError(f"sft.engine.{key}: {reason}; leave it out")


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
    with _as_launched(config):
        try:
            get_train_args(config)
        except (AssertionError, TypeError, ValueError) as error:
            raise RecipeError(f"LLaMA-Factory refuses the configuration: {error}") from error


@contextmanager
def _as_launched(config: dict[str, Any]) -> Iterator[None]:
    """Have the parser judge combinations of keys as under torchrun, on GPUs and with DeepSpeed, where there are none.

    transformers' arguments would start a process group on the GPUs; the parser (0.9.5, hparams/parser.py:347 to 430)
    asks them and transformers how they are launched.

    Raises:
        RecipeError: DeepSpeed's file cannot be read.
    """
    from llamafactory.hparams import parser
    from transformers.training_args import ParallelMode

    try:
        deepspeed = json.loads((ROOT / config["deepspeed"]).read_text()) if config["deepspeed"] else {}
    except (OSError, ValueError) as error:
        raise RecipeError(f"sft.deepspeed: {error}") from error
    parse, require = parser._parse_train_args, parser.check_version

    def parsed(given: dict[str, Any]) -> Any:
        found = parse(given | {"use_cpu": True, "deepspeed": None})
        arguments, kind = found[2], type(found[2])
        arguments.deepspeed = given["deepspeed"]
        if not given["use_cpu"]:
            arguments.__class__ = type(kind.__name__, (kind,), {"parallel_mode": ParallelMode.DISTRIBUTED})
        return found

    def installed(requirement: str, mandatory: bool = False) -> None:
        if requirement != "deepspeed":  # which the packages without GPUs leave out
            require(requirement, mandatory)

    sharded = deepspeed.get("zero_optimization", {}).get("stage") == 3
    with (
        mock.patch.object(parser, "_parse_train_args", parsed),
        mock.patch.object(parser, "check_version", installed),
        mock.patch.object(parser, "is_deepspeed_zero3_enabled", lambda: sharded),
        mock.patch.object(parser, "is_torch_bf16_gpu_available", lambda: not config["use_cpu"]),
    ):
        yield

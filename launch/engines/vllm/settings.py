"""vLLM's settings from a recipe."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.engines.families import FAMILIES
from launch.recipe import Recipe

if TYPE_CHECKING:
    from vllm import LLM
OPTION_TOKENS = 64  # tokens for the options' names behind the longest response
CPU_SHARE = 0.1  # of the memory, which vLLM only checks to be free: VLLM_CPU_KVCACHE_SPACE is the size of the cache


def engine_arguments(recipe: Recipe, model: str) -> dict[str, Any]:
    """vLLM's engine arguments, under its own names, for weights in safetensors only."""
    cpu, settings = recipe.cluster.device == "cpu", recipe.vllm
    return {
        "model": model,
        "trust_remote_code": recipe.model.trust_remote_code,
        "load_format": "safetensors",
        "dtype": recipe.model.dtype,
        "seed": recipe.seed,
        "max_model_len": context_length(recipe),
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "gpu_memory_utilization": CPU_SHARE if cpu else settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.enforce_eager,
        # A chunk that ends inside a prompt rewinds a seeded request's generator, which a CPU's cannot (engines/verl).
        "enable_chunked_prefill": not cpu,
        **({} if prefix_caching(recipe) else {"enable_prefix_caching": False}),
        "limit_mm_per_prompt": {"image": most_images(recipe), "video": 1},
        "skip_mm_profiling": cpu,
    }


def prefix_caching(recipe: Recipe) -> bool:
    """Whether vLLM keeps the beginnings of prompts: of layers that carry a state, only where it prefills in chunks."""
    a = recipe.model.architecture
    return recipe.cluster.device != "cpu" or a is None or not FAMILIES[a.family].recurrent


def most_images(recipe: Recipe) -> int:
    """Images of a question to the run's models, in any evaluation set, at most."""
    return max(media.most_images for media in (recipe.media, *(s.media for s in recipe.eval.sets.values() if s.media)))


def context_length(recipe: Recipe) -> int:
    """Tokens of the longest prompt, the longest response and the options behind it."""
    return recipe.vllm.max_prompt_length + recipe.eval.max_tokens + OPTION_TOKENS


def build_engine(recipe: Recipe, model: str) -> "LLM":
    """vLLM in this process."""
    from vllm import LLM

    return LLM(**engine_arguments(recipe, model), disable_log_stats=True)


def server_arguments(
    recipe: Recipe,
    model: Path,
    name: str,
    host: str,
    port: int,
    media: Path | None = None,
    copies: int = 1,
    media_domains: Sequence[str] = (),
) -> list[str]:
    """The command line of vLLM's server; it spreads requests over `copies` of the model."""
    settings = engine_arguments(recipe, str(model)) | {
        "max_model_len": context_length(recipe) - OPTION_TOKENS,
        "served_model_name": name,
        "host": host,
        "port": port,
        "generation_config": "vllm",  # what a request leaves out is vLLM's default, not the model's
        "media_io_kwargs": {"video": {"fps": recipe.media.fps, "num_frames": recipe.media.max_frames}},
    }
    if recipe.model.chat_template is not None:
        settings["chat_template"] = recipe.model.chat_template
    if copies > 1:
        settings["data_parallel_size"] = copies
    if media is not None:
        settings["allowed_local_media_path"] = media.absolute()
    domains = ["--allowed-media-domains", *media_domains] if media_domains else []
    return [*(_option(key.replace("_", "-"), value) for key, value in settings.items()), *domains]


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"

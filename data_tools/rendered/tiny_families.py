"""The tiny model's families: of each the real configuration, model, processors and chat template, in small sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

TEMPORAL_PATCH, MERGE = 2, 2
SYSTEM = "You are a helpful assistant."  # the default of Qwen2.5-VL and of LLaMA-Factory's `qwen2_vl` template
TURNS = Path(__file__).with_name("tiny_chat_template.jinja").read_text(encoding="utf-8")
_DEFAULT_SYSTEM = (
    "{%- if messages[0].role != 'system' -%}\n"
    f"{{{{ '<|im_start|>system\\n{SYSTEM}<|im_end|>\\n' }}}}\n"
    "{%- endif -%}\n"
)
_HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# Of the real models' video_preprocessor_config.json, in pixels of all frames of a clip.
_QWEN3_CLIP = {"shortest_edge": 4096, "longest_edge": 25_165_824}


@dataclass(frozen=True)
class TinySettings:
    """Sizes of the tiny model; the defaults give 1.3 to 1.6 M parameters.

    Attributes:
        family: a key of `TINY_FAMILIES`.
        hidden, intermediate, layers, heads, kv_heads: of the language model; the vision tower has the same width.
        vision_depth: blocks of the vision tower, all with full attention.
        init: standard deviation of the weights; a model this small needs more than the usual 0.02.
        tokens_per_second: steps of Qwen2.5-VL's temporal position per second of video.
    """

    family: str = "qwen2_5_vl"
    hidden: int = 128
    intermediate: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    vision_depth: int = 2
    init: float = 0.06
    tokens_per_second: int = 1


@dataclass(frozen=True)
class TinyFamily:
    """One row.

    Attributes:
        config, model, processor: the classes; configuration and processor by what all families give them.
        patch: side of a patch of the vision tower in pixels.
        image_mean, image_std: by which the processors normalise.
        chat_template: renders as the real model's does what this project asks.
    """

    config: Callable[[TinySettings, dict[str, Any], dict[str, Any], Mapping[str, Any]], Any]
    model: Any
    processor: Callable[..., Any]
    patch: int
    chat_template: str
    image_mean: list[float]
    image_std: list[float]


def _qwen2_5_vl_config(
    settings: TinySettings, text: dict[str, Any], vision: dict[str, Any], rest: Mapping[str, Any]
) -> Qwen2_5_VLConfig:
    half_head = settings.hidden // settings.heads // 2
    rows = 3 * half_head // 8  # the real model's shares: 2/8 time, 3/8 rows, 3/8 columns
    sections = [half_head - 2 * rows, rows, rows]
    text |= {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": sections}}
    vision |= {
        "window_size": vision["patch_size"] * 4,
        "fullatt_block_indexes": list(range(settings.vision_depth)),
        "tokens_per_second": settings.tokens_per_second,
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **rest)


def _qwen2_5_vl_processor(tokenizer: Any, size: int) -> Qwen2_5_VLProcessor:
    side = TINY_FAMILIES["qwen2_5_vl"].patch
    budget = {
        "patch_size": side,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": MERGE,
        "min_pixels": (MERGE * side) ** 2,
        "max_pixels": size * size,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**budget),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**budget),
        chat_template=TINY_FAMILIES["qwen2_5_vl"].chat_template,
    )


def _qwen3_vl_config(
    settings: TinySettings, text: dict[str, Any], vision: dict[str, Any], rest: Mapping[str, Any]
) -> Qwen3VLConfig:
    half_head = settings.hidden // settings.heads // 2
    rows = 5 * half_head // 16  # the real model's shares: 6/16 time, 5/16 rows, 5/16 columns
    sections = [half_head - 2 * rows, rows, rows]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections, "mrope_interleaved": True}
    text |= {"rope_parameters": rope, "head_dim": settings.hidden // settings.heads}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **rest)


def _qwen3_5_config(
    settings: TinySettings, text: dict[str, Any], vision: dict[str, Any], rest: Mapping[str, Any]
) -> Qwen3_5Config:
    """Gated delta layers, and attention in the last layer alone; positions turn a quarter of each head."""
    head = settings.hidden // settings.heads
    rows = 5 * (head // 8) // 16  # the real model's shares: 11/32 time and rows, 10/32 columns
    sections = [head // 8 - 2 * rows, rows, rows]
    text |= {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": sections,
            "mrope_interleaved": True,
            "partial_rotary_factor": 0.25,
        },
        "head_dim": head,
        "linear_key_head_dim": head,
        "linear_value_head_dim": head,
        "linear_num_key_heads": settings.heads,
        "linear_num_value_heads": settings.heads,
        "layer_types": ["linear_attention"] * (settings.layers - 1) + ["full_attention"],
        "mamba_ssm_dtype": "float32",  # of the state that vLLM keeps, as in the real model's configuration
    }
    vision |= {"num_position_embeddings": 64}
    return Qwen3_5Config(text_config=text, vision_config=vision, **rest)


def _qwen3_vl_processor(tokenizer: Any, size: int) -> Qwen3VLProcessor:
    """Of Qwen3-VL and Qwen3.5."""
    side = MERGE * TINY_FAMILIES["qwen3_vl"].patch
    still = {"shortest_edge": side**2, "longest_edge": max(size, side) ** 2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=TINY_FAMILIES["qwen3_vl"].patch, size=still, **_HALVES),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=_QWEN3_CLIP),
        chat_template=TINY_FAMILIES["qwen3_vl"].chat_template,
    )


TINY_FAMILIES = {
    "qwen2_5_vl": TinyFamily(
        config=_qwen2_5_vl_config,
        model=Qwen2_5_VLForConditionalGeneration,
        processor=_qwen2_5_vl_processor,
        patch=14,
        chat_template=_DEFAULT_SYSTEM + TURNS,
        image_mean=Qwen2VLVideoProcessor.image_mean,
        image_std=Qwen2VLVideoProcessor.image_std,
    ),
    "qwen3_vl": TinyFamily(
        config=_qwen3_vl_config,
        model=Qwen3VLForConditionalGeneration,
        processor=_qwen3_vl_processor,
        patch=16,
        chat_template=TURNS,
        **_HALVES,
    ),
    "qwen3_5": TinyFamily(
        config=_qwen3_5_config,
        model=Qwen3_5ForConditionalGeneration,
        processor=_qwen3_vl_processor,
        patch=16,
        chat_template=TURNS,
        **_HALVES,
    ),
}

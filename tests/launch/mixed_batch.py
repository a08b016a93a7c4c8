"""A small Qwen2.5-VL without a head, and batches of rows that show an image or a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

IMAGE, VIDEO = 10, 11  # token ids
GRIDS = {"i": (1, 4, 4), "v": (2, 4, 4)}


def tiny_tower() -> Any:
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    torch.manual_seed(0)
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text |= {"num_key_value_heads": 2, "vocab_size": 32, "rope_parameters": rope}
    config = Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 112},
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return Qwen2_5_VLModel(config)


def mixed_batch(kinds: str) -> dict[str, Any]:
    """One row per letter, of equal lengths: `i` shows an image, `v` a video."""
    import torch

    tokens = {"i": [1] * 4 + [IMAGE] * 4 + [2], "v": [VIDEO] * 8 + [2]}
    ids = torch.tensor([tokens[kind] for kind in kinds])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["mm_token_type_ids"] = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
    for kind, pixels, grid in (
        ("i", "pixel_values", "image_grid_thw"),
        ("v", "pixel_values_videos", "video_grid_thw"),
    ):
        if kind in kinds:
            t, h, w = GRIDS[kind]
            patches = torch.arange(t * h * w * 1176).reshape(-1, 1176) * len(pixels)
            batch |= {pixels: patches.sin(), grid: torch.tensor([GRIDS[kind]])}
    return batch


@contextmanager
def towers_passes(model: Any) -> Iterator[list[int]]:
    """How often the tower is called within the block."""
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1

    hook = model.visual.register_forward_pre_hook(count)
    yield passes
    hook.remove()

"""A prompt's clips and images as vLLM takes them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.controls import Control, shuffled
from data_tools.sample import IMAGE, VIDEO, Sample
from launch.recipe.evaluation import Media

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def with_media(turns: list[dict[str, str]], shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompt's placeholders as content parts, as verl's data set makes them (verl 0.9.1, rl_dataset.py:330).

    A published question may spell further ones, or those of another kind: they are text.
    """
    left, parts = iter(shown), []
    mark = VIDEO if shown[0]["type"] == "video" else IMAGE
    for turn in turns:
        pieces = [piece for piece in re.split(f"({mark})", turn["content"]) if piece]
        content: list[dict[str, Any]] | str = turn["content"]
        if mark in pieces:
            texts = [{"type": "text", "text": piece} for piece in pieces]
            content = [next(left, text) if piece == mark else text for piece, text in zip(pieces, texts)]
        parts.append({"role": turn["role"], "content": content})
    return parts


def items_of(sample: Sample, root: Path, media: Media) -> list[dict[str, Any]]:
    """The clip or the images of a sample as qwen-vl-utils takes them."""
    if sample.video is not None:
        return [{"type": "video", "video": str(root / sample.video), **media.of_clips}]
    # A picture has its final size: within bounds of the loader's own, which keep it.
    return [{"type": "image", "image": str(root / name)} for name in sample.images]


def frames_of(turns: list[dict[str, Any]], patch_size: int = 14) -> list[Any]:
    """The clips of a prompt as (frames [T, 3, H, W], metadata), or its images, by the loader that verl's rollouts use.

    Args:
        patch_size: of the model's image processor, in pixels: 14 in Qwen2.5-VL, 16 in Qwen3-VL. The loader rounds sizes
            to twice as much.
    """
    from qwen_vl_utils import process_vision_info

    images, videos = process_vision_info(turns, image_patch_size=patch_size, return_video_metadata=True)
    return list(videos or images)


def changed_image(image: "Image.Image", control: Control | None) -> "Image.Image":
    """An image as a control shows it."""
    from PIL import Image, ImageOps

    if control == "blank":
        return Image.new("RGB", image.size)
    return ImageOps.mirror(image) if control == "mirrored" else image


def changed(frames: "Tensor", control: Control | None, name: str) -> "Tensor":
    """Frames [T, 3, H, W] as a control shows them; `name` decides how they are shuffled."""
    if control == "blank":
        return frames.new_zeros(frames.shape)
    if control == "shuffled_frames":
        return frames[shuffled(len(frames), name)]
    if control == "mirrored":
        return frames.flip(-1)
    if control == "reversed":
        return frames.flip(0)
    return frames

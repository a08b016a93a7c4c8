"""The pixels of a prompt lie in verl's queue once, with its first rollout; whoever reads the others gets them there.

verl stores them with every rollout, as float32 (0.9.1, trainer/ppo/v1/agent_loop_tq.py:202): eight copies of 201 MB for
a clip of 64 frames. Here they are bytes until a micro-batch is made of them: 50 MB.
"""

from collections.abc import Mapping
from typing import Any

import torch
import transfer_queue as tq
from tensordict.tensorclass import NonTensorStack

from launch.verl_plugin.queue import plain

FIELD, OF = "multi_modal_inputs", "pixels_of"
SCALE = ".scale"  # behind the name of pixels that are bytes: what makes floats of them


def byte_frames(frames: Any) -> Any:
    """Decoded frames as bytes, where they are whole numbers from 0 to 255, as those of qwen-vl-utils (float32) are."""
    if not isinstance(frames, torch.Tensor):
        return frames
    found = frames.to(torch.uint8)
    return found if torch.equal(found.to(frames.dtype), frames) else frames


def as_bytes(features: Mapping[str, Any], processor: Any) -> dict[str, Any]:
    """Features whose pixels (N, C x ...) are bytes, with the scale (2, C, 1) that makes the same floats of them again.

    A processor makes (byte - mean) / std of a colour. Pixels that are not this to the last bit, as those that it has
    resized, stay floats.
    """
    found = dict(features)
    for name in filter(_is_pixels, features):
        kind = processor.video_processor if name.endswith("videos") else processor.image_processor
        scale = torch.tensor([kind.image_mean, kind.image_std])[..., None] * (1.0 / kind.rescale_factor)
        mean, std = scale
        colours = features[name].reshape(len(features[name]), len(mean), -1)
        pixels = (colours * std + mean).round_().clamp_(0, 255).to(torch.uint8).view(features[name].shape)
        if torch.equal(_floats(pixels, scale), features[name]):
            found |= {name: pixels, name + SCALE: scale}
    return found


def as_floats(features: Mapping[str, Any]) -> dict[str, Any]:
    """Features as the processor made them: the inverse of `as_bytes`."""
    return {
        name: _floats(value, features[name + SCALE]) if name + SCALE in features else value
        for name, value in features.items()
        if not name.endswith(SCALE)
    }


def _floats(pixels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    mean, std = scale
    return pixels.reshape(len(pixels), len(mean), -1).float().sub_(mean).div_(std).view(pixels.shape)


def as_stored(features: Mapping[str, Any], key: str, first: bool) -> dict[str, Any]:
    """Features of a rollout of the prompt whose first rollout is the row `key` of the queue.

    Args:
        first: whether it is that row, which holds the pixels; grids and seconds are in all, for positions.
    """
    return {name: value for name, value in features.items() if first or not _is_pixels(name)} | {OF: key}


def _is_pixels(name: str) -> bool:
    return name.startswith("pixel_values")


async def with_pixels(data: Any, partition_id: str) -> None:
    """Give rows read from the queue the pixels that they refer to; the rollouts of a prompt share the tensor.

    Args:
        data: changed in place. Where a row refers to one that is not among them, as where a group is split over
            ranks, that one is read too.
    """
    if FIELD not in data.keys():  # noqa: SIM118 (no dict)
        return
    found = [value or {} for value in plain(data[FIELD])]
    wanted = {value[OF] for value in found if OF in value}
    if not wanted:
        return
    firsts = {value[OF]: value for value in found if OF in value and any(map(_is_pixels, value))}
    if others := sorted(wanted - firsts.keys()):
        read = await tq.async_kv_batch_get(keys=others, partition_id=partition_id, select_fields=[FIELD])
        firsts |= zip(others, plain(read[FIELD]))
    data[FIELD] = NonTensorStack(*(_whole(value, firsts) for value in found))


def _whole(features: dict[str, Any], firsts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if OF not in features:
        return features
    pixels = {name: value for name, value in firsts[features[OF]].items() if _is_pixels(name)}
    return {name: value for name, value in features.items() if name != OF} | pixels


def register_floats(module: Any) -> None:
    """Have a micro-batch get floats.

    Args:
        module: verl.utils.model.
    """
    extract = module.extract_multi_modal_inputs

    def extract_multi_modal_inputs(batch_data: Any, indices: Any = None) -> dict[str, Any]:
        return extract([value and as_floats(value) for value in plain(batch_data)], indices)

    module.extract_multi_modal_inputs = extract_multi_modal_inputs


def register(module: Any) -> None:
    """Have the actor and the reference read rows with their pixels.

    Args:
        module: verl.utils.transferqueue_utils.
    """
    read = module._async_meta_to_realdata

    async def _async_meta_to_realdata(meta: Any) -> Any:
        data = await read(meta)
        if isinstance(meta, module.KVBatchMeta):
            await with_pixels(data, meta.partition_id)
        elif meta.size:  # a rank's share, which names its rows by numbers
            await with_pixels(data, meta.partition_ids[0])
        return data

    module._async_meta_to_realdata = _async_meta_to_realdata

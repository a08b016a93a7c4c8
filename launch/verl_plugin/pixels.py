"""The pixels of a prompt lie in verl's queue once, with its first rollout; whoever reads the others gets them there.

verl stores them with every rollout (0.9.1, trainer/ppo/v1/agent_loop_tq.py:202): eight copies of 201 MB for a clip of
64 frames.
"""

from collections.abc import Mapping
from typing import Any

import transfer_queue as tq
from tensordict.tensorclass import NonTensorStack

from launch.verl_plugin.queue import plain

FIELD, OF = "multi_modal_inputs", "pixels_of"


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
        elif meta.size:  # a rank's share
            await with_pixels(data, meta.partition_ids[0])
        return data

    module._async_meta_to_realdata = _async_meta_to_realdata

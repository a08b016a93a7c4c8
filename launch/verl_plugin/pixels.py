"""The pixels of a prompt lie in verl's queue once, with its first rollout; whoever reads the others gets them there.

verl stores them with every rollout (0.9.1, trainer/ppo/v1/agent_loop_tq.py:202): eight copies of 201 MB for a clip of
64 frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import transfer_queue as tq
from tensordict.tensorclass import NonTensorStack

from launch.verl_plugin.queue import plain

FIELD, OF = "multi_modal_inputs", "pixels_of"


def without_pixels(features: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Features of a rollout that shows what the row `key` of the queue shows; grids and seconds stay, for positions."""
    kept = {name: value for name, value in features.items() if not name.startswith("pixel_values")}
    return kept | {OF: key}


async def with_pixels(data: Any, keys: Sequence[str], partition_id: str) -> None:
    """Give rows read from the queue the pixels that they refer to; the rollouts of a prompt share the tensor.

    Args:
        data: of the rows `keys`, changed in place. Where a row refers to one that is not among them, as where a group
            is split over ranks, that one is read too.
    """
    if FIELD not in data.keys():  # noqa: SIM118 (no dict)
        return
    found = [value or {} for value in plain(data[FIELD])]
    wanted = {value[OF] for value in found if OF in value}
    if not wanted:
        return
    rows = dict(zip(keys, found))
    if others := sorted(wanted - rows.keys()):
        read = await tq.async_kv_batch_get(keys=others, partition_id=partition_id, select_fields=[FIELD])
        rows |= zip(others, plain(read[FIELD]))
    data[FIELD] = NonTensorStack(*(_whole(value, rows) for value in found))


def _whole(features: dict[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if OF not in features:
        return features
    pixels = {name: value for name, value in rows[features[OF]].items() if name.startswith("pixel_values")}
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
            await with_pixels(data, meta.keys, meta.partition_id)
        elif meta.size:  # a rank's share, which verl names by numbers alone
            await with_pixels(data, (), meta.partition_ids[0])
        return data

    module._async_meta_to_realdata = _async_meta_to_realdata

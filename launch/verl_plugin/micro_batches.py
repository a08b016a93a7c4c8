"""Micro-batches by a budget of tokens that hold whole groups, for training on a group as one sequence.

verl's own (0.9.1, utils/seqlen_balancing.py) count a prompt once per row, and put the rows of a group anywhere.
"""

from collections.abc import Sequence
from typing import Any

from launch.verl_plugin.prefix import groups_of, media_of


def by_tokens(
    groups: Sequence[Sequence[int]], prompts: Sequence[int], responses: Sequence[int], budget: int
) -> list[list[int]]:
    """Rows of each micro-batch: whole groups in order, as long as they fit; a larger group is cut between responses.

    Args:
        groups: numbers of the rows of each.
        prompts, responses: tokens of each row; a group's prompt counts once per micro-batch.

    Example:
        >>> by_tokens([[0, 1], [2, 3], [4, 5]], [10] * 6, [5] * 6, budget=40)
        [[0, 1, 2, 3], [4, 5]]
        >>> by_tokens([[0, 1, 2]], [10] * 3, [5] * 3, budget=20)
        [[0, 1], [2]]
    """
    parts: list[list[int]] = []
    room = 0
    for members in groups:
        prompt = prompts[members[0]]
        if prompt + sum(responses[row] for row in members) > room:
            parts.append([])
            room = budget
        room -= prompt
        for row in members:
            if responses[row] > room and parts[-1]:
                parts.append([])
                room = budget - prompt
            parts[-1].append(row)
            room -= responses[row]
    return parts


def at_least(parts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """So many micro-batches, by halving those of most rows: all ranks gather weights as often as the slowest one.

    Example:
        >>> at_least([[0, 1, 2], [3]], 3)
        [[0], [1, 2], [3]]
    """
    made = [list(part) for part in parts]
    while len(made) < count:
        largest = max(range(len(made)), key=lambda part: len(made[part]))
        rows = made[largest]
        made[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return made


def in_groups(data: Any, dp_group: Any) -> tuple[list[Any], list[list[int]]]:
    """A rank's micro-batches, as many as any rank has, and the rows of each."""
    import torch
    import torch.distributed as dist
    from verl.utils import tensordict_utils as tu
    from verl.utils.device import get_device_id

    ids, prompts = data["input_ids"], data["prompts"].offsets().diff().tolist()
    responses = [length - prompt for length, prompt in zip(ids.offsets().diff().tolist(), prompts)]
    groups = groups_of(ids.unbind(), prompts, media_of(data))
    parts = by_tokens(groups, prompts, responses, data["max_token_len_per_gpu"])
    count = torch.tensor([len(parts)], device=get_device_id())
    dist.all_reduce(count, op=dist.ReduceOp.MAX, group=dp_group)
    parts = at_least(parts, int(count))
    return [tu.index_select_tensor_dict(data, part) for part in parts], parts


def register(module: Any) -> None:
    """Have verl's FSDP engine make such micro-batches where it trains on groups by a budget of tokens.

    Args:
        module: verl.workers.engine.fsdp.transformer_impl.
    """
    from verl.utils import tensordict_utils as tu

    prepare = module.prepare_micro_batches

    def forward_backward_batch(self: Any, data: Any, *args: Any, **settings: Any) -> Any:
        tu.assign_non_tensor(data, whole_groups=self.shared_prefix)
        return module.FSDPEngine.forward_backward_batch(self, data, *args, **settings)

    def prepare_micro_batches(data: Any, dp_group: Any = None, **settings: Any) -> Any:
        if not (tu.get_non_tensor_data(data, "whole_groups", False) and data["use_dynamic_bsz"]):
            return prepare(data=data, dp_group=dp_group, **settings)
        return in_groups(data, dp_group)

    module.FSDPEngineWithLMHead.forward_backward_batch = forward_backward_batch
    module.prepare_micro_batches = prepare_micro_batches

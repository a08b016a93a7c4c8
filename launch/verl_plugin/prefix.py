"""Training on a group as one sequence: its prompt once, and the responses after it, each of which sees the prompt.

    [prompt, response 1, ..., response G]    instead of    [prompt, response 1], ..., [prompt, response G]

The clip goes through the vision tower once per group instead of once per response, the prompt through the language
model likewise, and logits are made of response tokens alone. Log-probabilities and gradients are those of the plain
rows up to the order of sums: each response keeps its own M-RoPE positions and attends to the prompt and to itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

NAME = "shared_prefix"  # of the attention, and of `model.override_config` in launch/engines/verl/config.yaml
OLD_FROM_UPDATE = "old_log_probs_from_update"  # of a batch's extra_info: launch/verl_plugin/trainer.py
CHUNK = 1024  # tokens whose logits are held at one time


@dataclass(frozen=True)
class Group:
    """Rows of one prompt: its tokens, and those of each response."""

    prompt: int
    responses: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """Rows of a micro-batch, group after group, as one sequence of S tokens.

    Attributes:
        ids_S, positions_4S: as the model takes them.
        media: of each group's first row.
        groups: the layout.
        rows: number of the row that each response is of.
        before_N: for each response token the place in the sequence of the token before it, whose output predicts it.
        labels_N: the response tokens.
    """

    ids_S: torch.Tensor
    positions_4S: torch.Tensor
    media: list[Any]
    groups: tuple[Group, ...]
    rows: tuple[int, ...]
    before_N: torch.Tensor
    labels_N: torch.Tensor


def pack(
    ids: Sequence[torch.Tensor], positions: Sequence[torch.Tensor], prompts: Sequence[int], media: Sequence[Any]
) -> Packed:
    """Rows of a micro-batch as one sequence.

    Args:
        ids: of each row, prompt and response (L).
        positions: of each row (4, L) or (L).
        prompts: tokens of each row's prompt.
        media: of each row, its tensors by name, or None.
    """
    parts, places, before, labels, order, groups, firsts = [], [], [], [], [], [], []
    start = 0
    for members in groups_of(ids, prompts, media):
        first, prompt = members[0], prompts[members[0]]
        parts.append(ids[first][:prompt])
        places.append(positions[first][..., :prompt])
        end, last = start + prompt, start + prompt - 1
        for row in members:
            response = ids[row][prompt:]
            parts.append(response)
            places.append(positions[row][..., prompt:])
            before.append(torch.tensor([last, *range(end, end + len(response) - 1)], dtype=torch.long))
            labels.append(response)
            end += len(response)
        groups.append(Group(prompt, tuple(len(ids[row]) - prompt for row in members)))
        firsts.append(media[first])
        order += members
        start = end
    device = parts[0].device
    packed = torch.cat(parts), torch.cat(places, -1)
    return Packed(*packed, firsts, tuple(groups), tuple(order), torch.cat(before).to(device), torch.cat(labels))


def groups_of(ids: Sequence[torch.Tensor], prompts: Sequence[int], media: Sequence[Any]) -> list[list[int]]:
    """Numbers of the rows with the same prompt and the same media; the same question may be asked about other clips."""
    found: list[list[int]] = []
    for row in range(len(ids)):
        for group in found:
            first, length = group[0], prompts[group[0]]
            if (
                prompts[row] == length
                and torch.equal(ids[row][:length], ids[first][:length])
                and _same(media[row], media[first])
            ):
                group.append(row)
                break
        else:
            found.append([row])
    return found


def media_of(batch: Any) -> list[Any]:
    """Tensors of each row's media by name, or None."""
    without = [None] * len(batch["input_ids"].offsets().diff())
    return [getattr(inputs, "data", inputs) or None for inputs in batch.get("multi_modal_inputs", without)]


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one is other or torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    groups: Sequence[Group] = (),
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed groups: a prompt sees itself, a response its prompt and itself, both causally.

    Args:
        query: (1, H, S, D). key, value: (1, K, S, D) with H a multiple of K.

    Returns:
        (1, S, H, D), and no weights, as transformers asks of an attention function.
    """
    repeat = query.shape[1] // key.shape[1]
    of = partial(F.scaled_dot_product_attention, scale=scaling, dropout_p=dropout, enable_gqa=False)
    out, start = [], 0
    for group in groups:
        seen = slice(start, start + group.prompt)
        prompt_key, prompt_value = (x[:, :, seen].repeat_interleave(repeat, 1) for x in (key, value))
        out.append(of(query[:, :, seen], prompt_key, prompt_value, is_causal=True))
        start = seen.stop
        for length in group.responses:
            own = slice(start, start + length)
            own_key, own_value = (x[:, :, own].repeat_interleave(repeat, 1) for x in (key, value))
            both = torch.cat([prompt_key, own_key], 2), torch.cat([prompt_value, own_value], 2)
            mask = torch.ones(length, group.prompt + length, dtype=torch.bool, device=query.device).tril(group.prompt)
            out.append(of(query[:, :, own], *both, attn_mask=mask))
            start = own.stop
    return torch.cat(out, 2).transpose(1, 2), None


def log_probs_and_entropy(
    rows_ND: torch.Tensor, head: Any, labels_N: torch.Tensor, temperature_N: torch.Tensor, entropy: bool
) -> torch.Tensor:
    """Log-probability of each label and entropy (or 0) of its distribution, (N, 2) in float32, chunk by chunk.

    Args:
        head: (n, D) -> logits (n, V). They are made again for the gradient, so that one chunk of them exists at a time.
    """

    def of_chunk(rows: torch.Tensor, labels: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        logits = head(rows).float() / temperature[:, None]
        total = torch.logsumexp(logits, -1)
        chosen = logits.gather(-1, labels[:, None]).squeeze(-1) - total
        spread = total - (logits.softmax(-1) * logits).sum(-1) if entropy else torch.zeros_like(total)
        return torch.stack([chosen, spread], -1)

    chunks = zip(rows_ND.split(CHUNK), labels_N.split(CHUNK), temperature_N.split(CHUNK))
    return torch.cat([checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks])


@contextmanager
def _head_of_responses(
    module: torch.nn.Module, packed: Packed, temperature_N: torch.Tensor, entropy: bool
) -> Iterator[None]:
    """While active the model gives `log_probs_and_entropy` of response tokens as its logits, (1, N, 2).

    The head's own module computes them, since FSDP has its weight whole only there.
    """
    head = next(of for name, of in module.named_modules() if name.split(".")[-1] == "lm_head")
    linear = head.forward

    def forward(hidden_1SD: torch.Tensor) -> torch.Tensor:
        rows = hidden_1SD[0, packed.before_N]
        return log_probs_and_entropy(rows, linear, packed.labels_N, temperature_N, entropy)[None]

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def forward_step(
    self: Any, micro_batch: Any, loss_function: Any, forward_only: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """FSDPEngineWithLMHead.forward_step (verl 0.9.1) over packed groups; where verl has a value per prompt token: 0."""
    from verl.utils import tensordict_utils as tu
    from verl.utils.device import get_device_id, get_device_name
    from verl.utils.model import extract_multi_modal_inputs
    from verl.workers.engine.utils import detach_tree

    micro_batch = micro_batch.to(get_device_id())
    entropy = bool(tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False))
    ids, positions = micro_batch["input_ids"], micro_batch["position_ids"]
    offsets = ids.offsets()
    rows = ids.unbind()
    prompts = micro_batch["prompts"].offsets().diff().tolist()
    packed = pack(rows, _rows(positions, offsets), prompts, media_of(micro_batch))
    temperature_B = torch.as_tensor(micro_batch["temperature"], dtype=torch.float32, device=rows[0].device).expand(
        len(rows)
    )
    lengths = torch.tensor([length for group in packed.groups for length in group.responses], device=rows[0].device)
    order = torch.tensor(packed.rows, device=rows[0].device)
    temperature_N = temperature_B[order].repeat_interleave(lengths)
    dtype = getattr(self, "_autocast_dtype", torch.bfloat16)
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast(device_type=get_device_name(), dtype=dtype)
    with autocast, _head_of_responses(self.module, packed, temperature_N, entropy):
        found_N2 = self.module(
            input_ids=packed.ids_S[None],
            attention_mask=None,
            position_ids=packed.positions_4S.unsqueeze(-2),
            groups=packed.groups,
            use_cache=False,
            **extract_multi_modal_inputs([inputs for inputs in packed.media if inputs is not None]),
        ).logits[0]
    # In verl's layout a token's value lies at the token before it: at the last token of the prompt for the first one.
    at = torch.cat([
        torch.arange(length, device=order.device) + offsets[row] + prompts[row] - 1
        for row, length in zip(packed.rows, lengths.tolist())
    ])  # fmt: skip
    values = found_N2.new_zeros(int(offsets[-1]), 2).index_copy(0, at, found_N2)
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(values[:, 0], offsets)}
    if entropy:
        output["entropy"] = torch.nested.nested_tensor_from_jagged(values[:, 1], offsets)
    if loss_function is None:
        loss, metrics = torch.tensor(1.0, device=values.device), {}
    else:
        loss, metrics = loss_function(model_output=output, data=micro_batch, dp_group=self.get_data_parallel_group())
    return loss, {"model_output": detach_tree(output), "loss": loss.detach().item(), "metrics": metrics}


def _rows(positions: torch.Tensor, offsets: torch.Tensor) -> list[torch.Tensor]:
    """Positions of each row, (4, L) or (L); a jagged tensor (B, 4, L) cannot be unbound along its rows."""
    if positions.dim() == 2:
        return list(positions.unbind())
    return list(positions.values().split(offsets.diff().tolist(), -1))


def register(module: Any) -> None:
    """Have verl's FSDP engine train on groups where `model.override_config.shared_prefix` says so.

    Args:
        module: verl.workers.engine.fsdp.transformer_impl.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from verl.utils import tensordict_utils as tu

    engine = module.FSDPEngineWithLMHead
    build, plain = engine._build_module, engine.forward_step

    def _build_module(self: Any) -> torch.nn.Module:
        # Taken out again: it is a setting of the training, not of the model that is saved.
        self.shared_prefix = self.model_config.hf_config.__dict__.pop(NAME, False)
        model = build(self)
        if self.shared_prefix:
            if self.use_remove_padding:
                raise ValueError(
                    "rl.shared_prefix=true packs rows itself: set actor_rollout_ref.model.use_remove_padding=false"
                )
            share_prefixes(model)
        return model

    def step(self: Any, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        if loss_function is not None and tu.get_non_tensor_data(micro_batch, OLD_FROM_UPDATE, default=False):
            loss_function = of_its_own_pass(loss_function)
        return (forward_step if self.shared_prefix else plain)(self, micro_batch, loss_function, forward_only)

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    engine._build_module, engine.forward_step = _build_module, step


def of_its_own_pass(loss_function: Any) -> Any:
    """A policy loss whose old log-probabilities are those of the pass itself: a ratio of 1 that has their gradient."""
    from verl.workers.utils.padding import response_from_nested

    def loss(model_output: Any, data: Any, dp_group: Any = None) -> Any:
        data["old_log_probs"] = response_from_nested(model_output["log_probs"].detach(), data["response_mask"])
        return loss_function(model_output=model_output, data=data, dp_group=dp_group)

    return loss


def share_prefixes(model: torch.nn.Module) -> None:
    """Have the language model attend within groups; transformers makes no mask for an attention that has none.

    Raises:
        ValueError: layers that are no full attention, whose state would run through all responses.
    """
    config = model.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise ValueError(f"rl.shared_prefix=true: the model has layers of {', '.join(sorted(others))}; set it to false")
    config._attn_implementation = NAME

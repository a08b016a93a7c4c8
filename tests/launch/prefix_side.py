"""Both ways of verl's FSDP engine through the same rows, in a process of their own (they patch transformers).

Prints for each case the largest difference of log-probabilities and of entropies, and of gradients, relative to the
largest of their tensor; and the number of tokens that each way sends through a layer of the language model.
"""

import json
import sys
import tempfile
from types import SimpleNamespace

import torch
import torch.distributed as dist
import transformers
import verl.workers.engine.fsdp.transformer_impl as engines
from tensordict.tensorclass import NonTensorData, NonTensorStack
from torch.distributed.device_mesh import init_device_mesh
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.utils import tensordict_utils as tu
from verl.utils.fsdp_utils import apply_fsdp2
from verl.workers.utils.padding import no_padding_2_padding

from launch.verl_plugin import prefix

IMAGE, VIDEO, START, END = 250, 251, 252, 253
TEXT = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14}
SEEN = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}


def build(family: str, sharded: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "qwen2_5_vl":
        text = TEXT | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
        vision = VISION | {"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 112}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **SEEN)
        kind = transformers.Qwen2_5_VLForConditionalGeneration
    else:
        text = TEXT | {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True}}
        vision = VISION | {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **SEEN)
        kind = transformers.Qwen3VLForConditionalGeneration
    config._attn_implementation = "sdpa"
    model = kind._from_config(config, dtype=torch.float32).eval()
    apply_monkey_patch(model, use_remove_padding=False)
    if sharded:
        apply_fsdp2(model, {"mesh": init_device_mesh("cpu", (1,))}, {"wrap_policy": {}})
    return model


def engine(model: torch.nn.Module, shared: bool) -> engines.FSDPEngineWithLMHead:
    made = object.__new__(engines.FSDPEngineWithLMHead)
    made.module, made.shared_prefix, made._autocast_dtype = model, shared, torch.float32
    made.engine_config = SimpleNamespace(entropy_checkpointing=False, entropy_from_logits_with_chunking=False)
    made.use_ulysses_sp = made.pad_to_length = False
    made.get_data_parallel_group = lambda: None
    if shared:
        prefix.share_prefixes(model)
    return made


def rows(groups: int, size: int, longest: int) -> list[tuple[torch.Tensor, torch.Tensor, dict]]:
    """Prompt, response and media of each row: two groups ask the same of two clips, and the last row is padding."""
    random, found = torch.Generator().manual_seed(1), []
    for group in range(groups):
        words = torch.randint(1, 200, (9,), generator=torch.Generator().manual_seed(group // 2))
        grid = torch.tensor([[1, 4, 8]])
        pixels = torch.randn(int(grid.prod()), 3 * 2 * 14 * 14, generator=random)
        clip = torch.tensor([START, *[VIDEO] * 8, END])
        for rollout in range(size):
            length = max(1, longest - 2 * rollout)
            response = torch.randint(1, 200, (length,), generator=random)
            media = {"pixel_values_videos": pixels.clone(), "video_grid_thw": grid.clone()}
            found.append((torch.cat([words[:4], clip, words[4:]]), response, media))
    return [*found, (torch.tensor([7]), torch.tensor([7]), {})]


def batch(rows: list) -> object:
    def nested(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    ids = [torch.cat([prompt, response]) for prompt, response, _ in rows]
    places = torch.cat([torch.arange(len(row)).expand(4, -1) * torch.tensor([[1], [1], [2], [3]]) for row in ids], 1)
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)
    fields = {
        "input_ids": nested(ids),
        "prompts": nested([prompt for prompt, *_ in rows]),
        "responses": nested([response for _, response, _ in rows]),
        "position_ids": torch.nested.nested_tensor_from_jagged(places.contiguous(), offsets, jagged_dim=2),
        "multi_modal_inputs": NonTensorStack.from_list([NonTensorData(media) for *_, media in rows]),
    }
    said = {"temperature": 0.9, "calculate_entropy": True, "use_remove_padding": False, "pad_token_id": 0}
    return tu.get_tensordict(fields, non_tensor_dict=said)


def passed(family: str, shared: bool, sharded: bool, rows: list) -> tuple[torch.Tensor, torch.Tensor, dict, int]:
    """Log-probabilities and entropies of response tokens (B, T), gradients by name, tokens that a layer saw."""
    model, kept = build(family, sharded), {}

    def loss(model_output, data, dp_group):
        of = {name: no_padding_2_padding(model_output[name], data) for name in ("log_probs", "entropy")}
        kept.update({name: value.detach() for name, value in of.items()})
        weights = torch.linspace(-1, 1, len(rows))[:, None]
        return (weights * of["log_probs"]).sum() + 0.1 * of["entropy"].sum(), {}

    def count(module, arguments, settings):
        hidden = arguments[0] if arguments else settings["hidden_states"]
        kept["tokens"] = hidden.shape[0] * hidden.shape[1]

    model.model.language_model.layers[0].register_forward_pre_hook(count, with_kwargs=True)
    total, _ = engine(model, shared).forward_step(batch(rows), loss, forward_only=False)
    total.backward()
    gradients = {
        name: getattr(p.grad, "full_tensor", lambda p=p: p.grad)().clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    return kept["log_probs"], kept["entropy"], gradients, kept["tokens"]


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def main() -> None:
    dist.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
    found = {}
    for family in ("qwen2_5_vl", "qwen3_vl"):
        for groups, size, sharded in ((1, 1, False), (3, 3, False), (2, 8, True)):
            asked = rows(groups, size, longest=17)
            if (groups, size) == (3, 3):
                prefix.CHUNK = 10  # several chunks
                asked = [asked[i] for i in (0, 3, 6, 1, 4, 7, 2, 5, 8, 9)]  # groups need not be neighbours
            log_probs, entropies, gradients, plain = passed(family, False, sharded, asked)
            of = passed(family, True, sharded, asked)
            prefix.CHUNK = 1024
            assert gradients.keys() == of[2].keys()
            found[f"{family} {groups}x{size}{' sharded' * sharded}"] = {
                "log_probs": largest(log_probs, of[0]),
                "entropy": largest(entropies, of[1]),
                "gradients": max(largest(g, of[2][n]) / (float(g.abs().max()) + 1e-12) for n, g in gradients.items()),
                "tokens": [plain, of[3]],
            }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

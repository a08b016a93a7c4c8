"""One of two ranks that train on micro-batches of different media, under FSDP: python ranks_side.py RANK STORE

Each case is a letter per prompt, of rank 0 and of rank 1: `i` shows an image, `I` two of them, `v` a video, `t`
nothing, as the padding rows of a filtered batch. Rank 0 prints for each way and case the largest difference between the
gradients of both ranks' micro-batches and those of the same rows, one after the other, in a single process, relative to
the largest of their tensor. A rank that waits for the other in vain ends with an error.
"""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cache

import prefix_side
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.utils.fsdp_utils import apply_fsdp2
from verl.workers.utils.padding import no_padding_2_padding

from data_tools.rendered import tiny_model
from data_tools.rendered.tiny_families import TINY_FAMILIES, TinySettings

SECONDS = 240  # that a rank waits for the other one; both import the engines first, maybe on a busy machine
CASES = [("i", "v"), ("t", "I"), ("iv", "i"), ("vt", "t"), ("Iv", "t")]
GRIDS = {"image": [1, 4, 4], "video": [2, 4, 4]}
NAMES = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
SHOWN = {"i": ["image"], "I": ["image", "image"], "v": ["video"], "t": []}
Row = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]  # prompt, response and media


@cache
def tokenizer(family: str):
    return tiny_model.build_tokenizer(["Does the camera move?"], family=family)


def build(family: str, way: str, sharded: bool) -> torch.nn.Module:
    settings = TinySettings(family, hidden=32, intermediate=64, heads=2, kv_heads=1)
    model = tiny_model.build_model(tokenizer(family), 0, settings).eval()
    if way != "transformers":
        apply_monkey_patch(model, use_remove_padding=False)
    if sharded:
        apply_fsdp2(model, {"mesh": init_device_mesh("cpu", (2,))}, {"wrap_policy": {}})
    return model


def rows(kinds: str, config, seed: int) -> list[Row]:
    """Two responses to a prompt of each letter."""
    random, found = torch.Generator().manual_seed(seed), []
    pads = {"image": config.image_token_id, "video": config.video_token_id}
    width = 3 * 2 * config.vision_config.patch_size**2
    for kind in kinds:
        prompt, pixels = [torch.randint(20, 200, (4,), generator=random)], []
        for shown in SHOWN[kind]:
            patches = int(torch.tensor(GRIDS[shown]).prod())
            places = [config.vision_start_token_id, *[pads[shown]] * (patches // 4), config.vision_end_token_id]
            prompt.append(torch.tensor(places))
            pixels.append(torch.randn(patches, width, generator=random))
        media = {}
        for shown in dict.fromkeys(SHOWN[kind]):
            grids = torch.tensor([GRIDS[shown]] * len(pixels))
            media = dict(zip(NAMES[shown], (torch.cat(pixels), grids)))
        for length in (3, 5):
            found.append((torch.cat(prompt), torch.randint(20, 200, (length,), generator=random), media))
    return found


def loss_of(model: torch.nn.Module, way: str, batch: list[Row]) -> torch.Tensor:
    """Of a micro-batch: the sum over its response tokens."""
    if way == "transformers":
        return padded_loss(model, batch)

    def total(model_output, data, dp_group):
        return no_padding_2_padding(model_output["log_probs"], data).sum(), {}

    engine = prefix_side.engine(model, shared=way == "verl, groups")
    return engine.forward_step(prefix_side.batch(batch), total, forward_only=False)[0]


def padded_loss(model: torch.nn.Module, batch: list[Row]) -> torch.Tensor:
    """As LLaMA-Factory hands a batch to transformers; to one without images and videos it would add a blank image."""
    ids = [torch.cat([prompt, response]) for prompt, response, _ in batch]
    labels = [torch.cat([torch.full_like(prompt, -100), response]) for prompt, response, _ in batch]
    seen = [torch.ones_like(row) for row in ids]
    given = {"input_ids": pad_sequence(ids, True), "attention_mask": pad_sequence(seen, True)}
    given["position_ids"] = torch.arange(given["input_ids"].shape[1]).expand(4, len(batch), -1)
    for names in NAMES.values():
        for name in names:
            if parts := [media[name] for *_, media in batch if name in media]:
                given[name] = torch.cat(parts)
    logits = model(**given).logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, pad_sequence(labels, True, -100)[:, 1:].flatten(), reduction="sum")


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in found.items()}


def difference(family: str, way: str, case: tuple[str, str], rank: int) -> float:
    apart = build(family, way, sharded=False)
    of_ranks = [rows(kinds, apart.config, seed) for seed, kinds in enumerate(case)]
    together = build(family, way, sharded=True)
    loss_of(together, way, of_ranks[rank]).backward()
    for row in [row for batch in of_ranks for row in batch]:
        (loss_of(apart, way, [row]) / 2).backward()  # FSDP takes the mean over ranks
    got, expected = gradients(together), gradients(apart)
    assert got.keys() == expected.keys() and any("visual" in name for name in got)
    return max(float((got[name] - grad).abs().max() / (grad.abs().max() + 1e-6)) for name, grad in expected.items())


def ways() -> Iterator[tuple[str, str]]:
    """verl patches the classes of a family for good: the way without it comes first."""
    for family in TINY_FAMILIES:
        yield family, "transformers"
        yield family, "verl, rows"
        if family != "qwen3_5":  # the state of its layers would run through all responses
            yield family, "verl, groups"


def main(rank: int, store: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=SECONDS)
    )
    found = {}
    for family, way in ways():
        for case in CASES:
            if way == "transformers" and "t" in case:
                continue
            sys.stderr.write(f"rank {rank}: {family}, {way}: {' beside '.join(case)}\n")
            found[f"{family}, {way}: {' beside '.join(case)}"] = difference(family, way, case, rank)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

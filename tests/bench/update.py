"""Log-probabilities and update of one batch by verl's FSDP worker: python -m tests.bench.update OUT.json TOKENS SIZES

"plain" is verl as it comes, with the number of rows in a micro-batch that is faster here; "ours" our defaults, and
"ours_<part>" one part of them alone. All workers live in one process and take turns on the same batch: random clips and
random answers, weights of a tiny model whose vision tower is trained, as in every study.
"""

import ctypes
import gc
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from launch.compose import compose_recipe
from launch.engines.patches.windows import ONE_BY_ONE
from launch.engines.verl.config import render
from launch.run import Run

FRAMES = {18: (2, 6, 6), 512: (2, 32, 32), 2048: (8, 32, 32)}  # visual tokens: patches of a clip in time, down, across
PLAIN = ("rl.shared_prefix=false", "model.batched_windows=false", "rl.shared_media=false")
OLD = "rl.old_log_probs_every=10"  # the step is one of the nine without that pass
VARIANTS = {
    "plain": PLAIN,
    "ours_windows": PLAIN[::2],
    "ours_prefix": PLAIN[1:],
    "ours_old": (*PLAIN, OLD),
    "ours": (OLD,),
}
LONGEST, SHORTER = 300, 17  # tokens of the first answer of a group, and by how many each further one is shorter
WORDS = 60  # text tokens of a prompt
REPEATS = 2


def overrides(size: int) -> tuple[str, ...]:
    """Of the demo: the shape of the studies' updates, one of them per batch."""
    batch = ("rl.rollout_batch_size=1", "rl.global_batch_size=1", f"rl.micro_batch_size_per_gpu={size}")
    lengths = ("rl.max_prompt_length=2200", f"rl.max_response_length={LONGEST}", f"rl.group_size={size}")
    return ("experiment=demo", "rl.freeze_vision_tower=false", *batch, *lengths)


def save_tiny(folder: Path) -> None:
    """The demo's model, of random weights and for longer prompts."""
    from data_tools.rendered.questions import demo_texts
    from data_tools.rendered.tiny_model import build_model, build_processor, build_tokenizer, save_model

    tokenizer = build_tokenizer(demo_texts())
    model = build_model(tokenizer, 0)
    model.config.text_config.max_position_embeddings = 4096
    save_model(model, build_processor(tokenizer, 448), folder)


def worker(model: Path, variant: Sequence[str], size: int) -> Any:
    """verl's worker of an actor, by the configuration that the recipe renders to."""
    from verl.workers.engine_workers import ActorRolloutRefWorker

    recipe, _ = compose_recipe([*overrides(size), *variant])
    config = render(Run(recipe, model.parent), str(model), total_steps=1)
    made = ActorRolloutRefWorker(config=config.actor_rollout_ref, role="actor")
    made.init_model()
    return made


def batch(model: Path, tokens: int, size: int, prompts: int = 1) -> dict[str, Any]:
    """Tensors of so many groups: a prompt with a clip of so many visual tokens, and `size` answers."""
    import torch
    from tensordict.tensorclass import NonTensorData, NonTensorStack
    from transformers import AutoConfig

    config, random = AutoConfig.from_pretrained(model), torch.Generator().manual_seed(tokens + size)
    clip = [config.vision_start_token_id, *[config.video_token_id] * tokens, config.vision_end_token_id]
    grid, asked, answers, media = torch.tensor([FRAMES[tokens]]), [], [], []
    for _ in range(prompts):
        words = torch.randint(20, 200, (WORDS,), generator=random)
        asked += [torch.cat([words[:10], torch.tensor(clip), words[10:]])] * size
        lengths = [max(20, LONGEST - SHORTER * number) for number in range(size)]
        answers += [torch.randint(20, 200, (length,), generator=random) for length in lengths]
        pixels = torch.randn(int(grid.prod()), 1176, generator=random)
        media += [NonTensorData({"pixel_values_videos": pixels, "video_grid_thw": grid}) for _ in lengths]
    ids = [torch.cat(row) for row in zip(asked, answers)]
    places = torch.cat([torch.arange(len(row)).expand(4, -1) for row in ids], 1).contiguous()
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)

    def nested(parts: Sequence[Any]) -> Any:
        return torch.nested.as_nested_tensor(list(parts), layout=torch.jagged)

    ones = [torch.ones_like(answer) for answer in answers]
    advantages = torch.randn(len(ids), generator=random).tolist()
    return {
        "input_ids": nested(ids),
        "prompts": nested(asked),
        "responses": nested(answers),
        "position_ids": torch.nested.nested_tensor_from_jagged(places, offsets, jagged_dim=2),
        "multi_modal_inputs": NonTensorStack.from_list(media),
        "loss_mask": nested(ones),
        "response_mask": nested(ones),
        "advantages": nested([one * value for one, value in zip(ones, advantages)]),
    }


def log_probs(worker: Any, fields: dict[str, Any], **asked: Any) -> Any:
    """What the trainer asks of a worker first: nested like the responses."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested

    asked = {"temperature": 1.0, "calculate_entropy": True, "compute_loss": False, **asked}
    found = worker.compute_log_prob(tu.get_tensordict(dict(fields), non_tensor_dict=asked))
    return response_from_nested(found["log_probs"], fields["response_mask"])


def update(worker: Any, fields: dict[str, Any], old: Any, **asked: Any) -> dict[str, Any]:
    """What it asks of it then; the metrics."""
    from verl.utils import tensordict_utils as tu

    size = len(fields["prompts"].offsets()) - 1
    asked = {"temperature": 1.0, "global_batch_size": size, "mini_batch_size": size, "epochs": 1, "seed": 0, **asked}
    asked = {"calculate_entropy": False, "dataloader_kwargs": {"shuffle": False}, **asked}
    found = worker.update_actor(tu.get_tensordict(fields | {"old_log_probs": old}, non_tensor_dict=asked))
    metrics: dict[str, Any] = tu.get(found, "metrics")
    return metrics


class Side:
    """A variant of the step, on any batch of its group size."""

    def __init__(self, model: Path, variant: Sequence[str], size: int) -> None:
        self.worker, self.rows = worker(model, variant, size), size
        self.own_old, self.shared = OLD in variant, PLAIN[0] not in variant
        self.one_by_one = "model.batched_windows=false" in variant

    def step(self, fields: dict[str, Any]) -> None:
        """Log-probabilities, where the update has not its own, and update."""
        from launch.verl_plugin.prefix import OLD_FROM_UPDATE

        asked = {"micro_batch_size_per_gpu": self.rows}
        os.environ.pop(ONE_BY_ONE, None)
        if self.one_by_one:
            os.environ[ONE_BY_ONE] = "1"
        old = fields["advantages"] if self.own_old else log_probs(self.worker, fields, **asked)
        update(self.worker, fields, old, **asked, **{OLD_FROM_UPDATE: self.own_old, "calculate_entropy": self.own_old})

    def seconds(self, fields: dict[str, Any]) -> float:
        gc.collect()
        begin = time.perf_counter()
        self.step(fields)
        return time.perf_counter() - begin

    def flops(self, fields: dict[str, Any]) -> int:
        """Operations of a step. torch does not count attention on a CPU: here all pairs of tokens, masked ones too."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        def attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
            rows, heads, length, width = query
            return 4 * rows * heads * length * key[2] * width  # scores and sums

        def backward(_: Any, query: Sequence[int], key: Sequence[int], *__: Any, **___: Any) -> int:
            return attention(query, key) * 5 // 2  # the scores again, and the gradients of what made them and the sums

        aten = torch.ops.aten
        counted = {
            aten._scaled_dot_product_flash_attention_for_cpu: attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
        }
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            self.step(fields)
        return counter.get_total_flops()


def peak_gib(work: Callable[[], object]) -> float:
    """Peak resident memory of this process meanwhile."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    work()
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**20


def join_alone() -> None:
    """This process as the only rank of its job."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1])}
    os.environ |= address | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def compared(model: Path, tokens: Sequence[int], size: int, variants: Sequence[str], repeats: int) -> dict[str, Any]:
    """{"<visual tokens>": {variant: {"update_s", "rows", "peak_gib", "flops"}}} of a group size.

    `update_s`: of the fastest step; plain verl takes rows one by one or all together, whichever is faster.
    """
    sides = {name: Side(model, VARIANTS[name], size) for name in variants}
    found: dict[str, Any] = {}
    for count in tokens:
        fields = batch(model, count, size)
        plain, of_rows = sides["plain"], {}
        plain.step(fields)  # warms up
        for plain.rows in (1, size):
            of_rows[plain.rows] = plain.seconds(fields)
        plain.rows = min(of_rows, key=of_rows.__getitem__)
        for side in sides.values():
            side.rows = size if side.shared else plain.rows
        peaks = {name: peak_gib(partial(side.step, fields)) for name, side in sides.items()}  # and warm
        turns = [{name: side.seconds(fields) for name, side in sides.items()} for _ in range(repeats)]
        times = {name: min(turn[name] for turn in turns) for name in sides}
        found[str(count)] = {
            name: {
                "update_s": round(times[name], 4),
                "rows": side.rows,
                "peak_gib": round(peaks[name], 3),
                "flops": side.flops(fields),
            }
            for name, side in sides.items()
        }
    return found


def main(out: Path, tokens: Sequence[int], sizes: Sequence[int]) -> None:
    join_alone()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_tiny(model)
        largest = max(sizes)
        found = {}
        for size in sizes:
            whole = size == largest
            variants = tuple(VARIANTS) if whole else ("plain", "ours")
            found[str(size)] = compared(model, tokens, size, variants, REPEATS if whole else 1)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(list(map(int, given.split(","))) for given in sys.argv[2:4]))

"""A sum over the ranks of this machine, timed: python -m launch.health.all_reduce RANKS nccl|gloo

Prints one line of JSON. A process of its own, since NCCL may hang or end it.
"""

import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

MEGABYTES, ROUNDS = {"nccl": 256, "gloo": 4}, 5


def rank(number: int, ranks: int, backend: str, store: str) -> None:
    device = torch.device("cuda", number) if backend == "nccl" else torch.device("cpu")
    dist.init_process_group(
        backend, init_method=f"file://{store}", rank=number, world_size=ranks, timeout=timedelta(minutes=2)
    )
    values = torch.ones(MEGABYTES[backend] * 2**20 // 4, device=device)
    dist.all_reduce(values)  # connects the ranks
    first = values[0].item()
    start = time.monotonic()
    for _ in range(ROUNDS):
        dist.all_reduce(values)
    last = values[0].item()  # waits for the GPU
    seconds = (time.monotonic() - start) / ROUNDS
    if (first, last) != (ranks, float(ranks) ** (ROUNDS + 1)):
        raise RuntimeError(f"Error: rank {number} of {ranks} has a wrong sum, {first:g} and {last:g}")
    if number == 0:
        moved = 2 * (ranks - 1) / ranks * values.nbytes / 1e9  # what each rank sends: the links' own speed
        speed = {"gb_per_s": moved / seconds, "torch": torch.__version__, "cuda": torch.version.cuda}
        sys.stdout.write(json.dumps(speed) + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()


def main(ranks: int, backend: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, backend, str(Path(folder) / "store"))
        torch.multiprocessing.start_processes(rank, arguments, nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

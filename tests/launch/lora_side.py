"""The shards of each rank, as verl writes adapters: python lora_side.py WEIGHTS FOLDER RANKS

In a process of its own: a process group is one for the whole process, and other tests start engines that have one.
"""

import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

path, folder, ranks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
weights = torch.load(path, weights_only=True)
for rank in range(ranks):
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("fsdp",))
    sharded = {}
    for name, weight in weights.items():
        mine = [*weight.chunk(ranks), weight[:0]][min(rank, len(weight.chunk(ranks)))].clone()
        sharded[name] = DTensor.from_local(
            mine, mesh, [Shard(0)], run_check=False, shape=weight.shape, stride=weight.stride()
        )
    torch.save(sharded, folder / f"model_world_size_{ranks}_rank_{rank}.pt")
    torch.distributed.destroy_process_group()

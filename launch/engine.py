"""Run an engine in a process of its own: quiet, watched, and ended when it hangs or when we die."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe
from launch.run import console

POLL_SECONDS = 0.5


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
    if recipe.cluster.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": env.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            "VLLM_CPU_SGL_KERNEL": "0",
            # More threads than free cores are far slower than one (engines share the cores between processes).
            "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1"),
        }
    return env


def progress_bar() -> Progress:
    """One line: what, bar, done of total, elapsed, left."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


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
    limit = recipe.cluster.time_limit_minutes * 60
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out, progress_bar() as bar:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=engine_env(recipe) | (env or {}),
            preexec_fn=_die_with_parent,
        )
        task = bar.add_task(what, total=total)
        seen, moved = (-1, -1), time.monotonic()
        try:
            while process.poll() is None:
                state = (done(), log.stat().st_size)
                if state != seen:
                    seen, moved = state, time.monotonic()
                    bar.update(task, completed=min(state[0], total))
                if time.monotonic() - moved > limit:
                    raise LaunchError(f"{what}: no sign of life for {limit / 60:g} minutes, ended; see {log}")
                time.sleep(POLL_SECONDS)
            bar.update(task, completed=min(done(), total))
        finally:
            end_process_tree(process)
    if process.returncode != 0:
        raise LaunchError(f"{what} failed (exit code {process.returncode}); {_reason(log)}\nsee {log}")


def end_process_tree(process: subprocess.Popen) -> None:
    """End a process and all its descendants: Ray's daemons, workers and vLLM's engine core among them."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _reason(log: Path) -> str:
    """The last line of the log that looks like the cause."""
    lines = log.read_text(errors="replace").splitlines()
    causes = [line for line in lines if "Error" in line or "error:" in line.lower() or "Killed" in line]
    return (causes or lines or ["its log is empty"])[-1].strip()[:500]

"""Run an engine in a process of its own: its output in a log, killed when it hangs or when its launcher ends."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.console import progress_bar
from launch.engines.activity import COMPUTING, LOOK_SECONDS, Activity
from launch.engines.cleanup import SharedMemory, die_with_parent, end
from launch.engines.environment import engine_env
from launch.engines.inherited import short_temporary
from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe

if TYPE_CHECKING:
    from psutil import Process
POLL_SECONDS = 1.0
FULL_DISK = 8 * 2**20  # bytes; an engine that fails with less left failed because the disk was full


def run_engine(
    recipe: Recipe,
    command: Sequence[str],
    log: Path,
    what: str,
    total: int,
    done: Callable[[], int],
    env: dict[str, str] | None = None,
) -> None:
    """Run `python -m command`, with its output in `log` and a progress bar of `done()` out of `total`.

    Raises:
        LaunchError: it failed; or neither its log nor its progress changed, and nothing of it computed, for
            cluster.time_limit_minutes; or it computed without either for COMPUTING times as long. The logs of its Ray
            node are then kept beside `log`.
        VersionError: an engine is not in the version that the patches are for.
    """
    import psutil

    limit = recipe.cluster.time_limit_minutes * 60
    log.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(_ray_logs(log), ignore_errors=True)
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
        last, changed = (-1, -1), time.monotonic()
        active, activity = changed, Activity(recipe.cluster.device == "cuda", min(LOOK_SECONDS, limit / 4))
        family = {psutil.Process(process.pid)}
        try:
            while process.poll() is None:
                family |= _descendants(process.pid)
                shared.record(family)
                state = (done(), log.stat().st_size)
                if state != last:
                    last, changed = state, time.monotonic()
                    bar.update(task, completed=min(state[0], total))
                if activity.seen(family):
                    active = time.monotonic()
                _require_life(what, log, limit, time.monotonic() - changed, time.monotonic() - active)
                time.sleep(POLL_SECONDS)
            bar.update(task, completed=min(done(), total))
        finally:
            # What an engine leaves behind when it has ended is idle: Ray's daemons and workers, vLLM's engine core.
            end(family, seconds=10 if process.poll() is None else 1)
            process.wait()
            if process.returncode != 0:
                _keep_ray_logs(scratch, log)
    if process.returncode != 0:
        _refuse_full_disk(what, log)
        also = f" and {_ray_logs(log)}" if _ray_logs(log).exists() else ""
        raise LaunchError(f"{what} failed (exit code {process.returncode}); {_reason(log)}\nsee {log}{also}")


def _require_life(what: str, log: Path, limit: float, silent: float, idle: float) -> None:
    """Raise for an engine that is dead: silent and idle, or computing for long without any progress (seconds)."""
    computes = idle < limit
    if silent > limit * (COMPUTING if computes else 1):
        how = ", though it computes" if computes else ""
        raise LaunchError(
            f"{what}: no output or progress for {silent / 60:.3g} minutes{how}; killed. See {log}. On a busy machine, "
            "or for long steps, raise cluster.time_limit_minutes; the same command resumes"
        )


def scratch_path(log: Path) -> Path:
    """Temporary folder of the engine that writes `log`."""
    name = hashlib.sha256(str(log).encode()).hexdigest()[:10]
    return short_temporary(f"camreasoner-{name}")


@contextmanager
def scratch_folder(log: Path) -> Iterator[Path]:
    """The engine's temporary folder: emptied first, also of what a killed run left, and deleted afterwards."""
    folder = scratch_path(log)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ray_logs(log: Path) -> Path:
    return log.with_suffix(".ray")


def _keep_ray_logs(scratch: Path, log: Path) -> None:
    """Copy what Ray's daemons and workers wrote beside `log`, if the disk has room: the scratch folder is deleted."""
    folders = sorted(scratch.glob("ray/session_2*/logs"))  # one per start of a node
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*"))
    if shutil.disk_usage(log.parent).free > size + FULL_DISK:
        for folder in folders:
            shutil.copytree(folder, _ray_logs(log) / folder.parent.name)


def _descendants(pid: int) -> "set[Process]":
    import psutil

    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def _refuse_full_disk(what: str, log: Path) -> None:
    """Name a full disk as the cause: engines report it in many ways, and their log may be cut off before that."""
    for folder in (log.parent, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        if free < FULL_DISK or "No space left on device" in _reason(log):
            raise LaunchError(
                f"{what} failed: a disk is full ({free / 2**20:.1f} MiB left in {folder}). Free some space, then run "
                f"the same command again: it resumes where it stopped\nsee {log}"
            )


def _reason(log: Path) -> str:
    """The last line of the log that looks like the cause of a failure."""
    lines = log.read_text(errors="replace").splitlines()
    causes = [line for line in lines if "Error" in line or "error:" in line.lower() or "Killed" in line]
    causes = [line for line in causes if "ChildFailedError" not in line]  # torchrun's own, after that of the rank
    return (causes or lines or ["its log is empty"])[-1].strip()[:500]

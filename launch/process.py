"""Processes that leave nothing behind, and the threads of those that train."""

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psutil import Process

TRAINING_THREADS = "CAMREASONER_TRAINING_THREADS"  # in the environment of an engine on a machine without a GPU


def train_in_threads() -> None:
    """Give this process, which trains, the threads that `launch.engine` found cores for, if it named any."""
    import torch

    if threads := os.environ.get(TRAINING_THREADS):
        torch.set_num_threads(int(threads))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends (Linux)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def bind_engine_core(module: ModuleType) -> None:
    """vLLM 0.24.0, v1/engine/utils.py:163: starts its engine core as a process that outlives a killed parent."""
    module.EngineCoreProc.run_unbound = module.EngineCoreProc.run_engine_core
    module.EngineCoreProc.run_engine_core = staticmethod(_run_engine_core)


def _run_engine_core(*args: Any, **settings: Any) -> None:
    """Named by module, so that a spawned process, where nothing is mended, finds it too."""
    die_with_parent()
    from vllm.v1.engine.core import EngineCoreProc

    getattr(EngineCoreProc, "run_unbound", EngineCoreProc.run_engine_core)(*args, **settings)


def end(processes: "Iterable[Process]", seconds: float = 10) -> None:
    """Ask the processes to end, kill those that have not after `seconds`, and wait for all."""
    import psutil

    alive = [process for process in processes if process.is_running()]
    for process in alive:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(alive, timeout=seconds)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=seconds)


class SharedMemory:
    """Notes the segments that appear while an engine runs, and removes those that no process uses any more.

    A killed engine leaves its segments behind; the notes in `path` outlive us, so that the next run removes them.
    """

    folder = Path("/dev/shm")

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "SharedMemory":
        self._remove_unused()
        self._before = self._segments()
        self._noted: set[str] = set()
        return self

    def note(self) -> None:
        """Write down the segments that are new since the start."""
        new = self._segments() - self._before - self._noted
        if new:
            self._noted |= new
            self._path.write_text("\n".join(sorted(self._noted)))

    def __exit__(self, *_: object) -> None:
        self._remove_unused()

    def _segments(self) -> set[str]:
        patterns = ("psm_*", "verl_weights_*")  # Python's own names, and verl's
        return {path.name for pattern in patterns for path in self.folder.glob(pattern)}

    def _remove_unused(self) -> None:
        if not self._path.exists():
            return
        noted = set(self._path.read_text().split()) & self._segments()
        for segment in noted - self._in_use() if noted else ():
            (self.folder / segment).unlink(missing_ok=True)
        self._path.unlink()

    def _in_use(self) -> set[str]:
        import psutil

        used = set()
        for process in psutil.process_iter():
            try:
                used |= {Path(area.path).name for area in process.memory_maps() if area.path.startswith("/dev/shm/")}
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return used

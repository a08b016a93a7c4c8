"""What an engine must not leave behind: processes and shared memory."""

import ctypes
import re
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psutil import Process

LOOKS = 5  # times that a segment is looked for in the engine's processes: it is mapped right after it was made


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends for whatever reason (Linux)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def end(processes: "Iterable[Process]", seconds: float = 10) -> None:
    """Terminate the processes, kill those still running after `seconds`, and wait for all."""
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
    """Records the segments that an engine makes, and removes those that it leaves behind.

    A killed engine leaves its segments in /dev/shm, which other jobs, users and containers share: a segment counts as
    the engine's where one of its processes maps it. The record in `path` outlives a killed launcher, so the next run
    removes them.
    """

    folder = Path("/dev/shm")

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "SharedMemory":
        self._remove_unused()
        self._foreign = self._segments()
        self._recorded: set[str] = set()
        self._seen: Counter[str] = Counter()
        return self

    def record(self, family: "Iterable[Process]") -> None:
        """Record the segments that the family, the engine's processes, maps and that are new since the start."""
        new = self._segments() - self._foreign - self._recorded
        if not new:
            return
        if made := new & self._mapped(family):
            self._recorded |= made
            self._path.write_text("\n".join(sorted(self._recorded)))
        self._seen.update(new - made)
        self._foreign |= {name for name, times in self._seen.items() if times >= LOOKS}

    def __exit__(self, *_: object) -> None:
        self._remove_unused()

    def _segments(self) -> set[str]:
        patterns = ("psm_*", "verl_weights_*")  # Python's own names, and verl's
        return {path.name for pattern in patterns for path in self.folder.glob(pattern)}

    def _remove_unused(self) -> None:
        import psutil

        if not self._path.exists():
            return
        recorded = set(self._path.read_text().split()) & self._segments()
        for segment in recorded - self._mapped(psutil.process_iter()) if recorded else ():
            try:
                (self.folder / segment).unlink(missing_ok=True)
            except PermissionError:  # a name used again, by another user: the work of this stage is done all the same
                continue
        self._path.unlink()

    def _mapped(self, processes: "Iterable[Process]") -> set[str]:
        """Names of the segments that these processes map, as far as they may be looked at.

        psutil's `memory_maps` counts the pages of every area, which takes 16 times as long.
        """
        segment, used = re.compile(rf" {self.folder}/(\S+)$", re.MULTILINE), set()
        for process in processes:
            try:
                areas = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            used |= set(segment.findall(areas))
        return used

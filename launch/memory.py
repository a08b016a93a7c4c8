"""Peak memory of a stage and all its processes."""

import os
import threading
from collections import Counter
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psutil import Process


class MemoryMeter:
    """Peak resident memory of this process and all its descendants, sampled every second at first, later every ten.

    A page that several of them share counts once (Linux's proportional set size): what the machine must have. Reading
    it costs some 10 ms per GiB and process.

    Attributes:
        peak_gib: of all together.
        by_name: of all processes of one name, e.g. "ray::WorkerDict".
    """

    def __init__(self) -> None:
        self.peak_gib, self._stop = 0.0, threading.Event()
        self.by_name: dict[str, float] = {}

    def __enter__(self) -> "MemoryMeter":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process(os.getpid())
        for seconds in chain([1] * 10, repeat(10)):
            now: Counter[str] = Counter()
            for process in [me, *me.children(recursive=True)]:
                if size := _proportional_set_size(process.pid):
                    now[_name(process)] += size
            self.peak_gib = max(self.peak_gib, now.total() / 2**30)
            self.by_name |= {name: max(self.by_name.get(name, 0.0), size / 2**30) for name, size in now.items()}
            if self._stop.wait(seconds):
                return


def _name(process: "Process") -> str:
    """Ray names its workers by what they run at the moment: `ray::WorkerDict.actor_rollout_update_actor`."""
    import psutil

    try:
        return process.name().partition(".")[0]
    except psutil.NoSuchProcess:
        return "ended"


def _proportional_set_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)

"""Peak memory of a stage and all its processes."""

import os
import threading
from itertools import chain, repeat
from pathlib import Path


class MemoryMeter:
    """Peak resident memory of this process and all its descendants, sampled every second at first, later every ten.

    A page that several of them share counts once (Linux's proportional set size): what the machine must have. Reading
    it costs some 10 ms per GiB and process.
    """

    def __init__(self) -> None:
        self.peak_gib, self._stop = 0.0, threading.Event()

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
            total = 0
            for process in [me, *me.children(recursive=True)]:
                total += _proportional_set_size(process.pid)
            self.peak_gib = max(self.peak_gib, total / 2**30)
            if self._stop.wait(seconds):
                return


def _proportional_set_size(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)

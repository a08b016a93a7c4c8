"""Whether an engine that says nothing computes: the CPU time of its processes, and the GPUs."""

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from launch.health.finding import output_of

if TYPE_CHECKING:
    from psutil import Process

COMPUTING = 6  # times as long as an idle engine may be silent, one may that computes: it may do so for ever
LOOK_SECONDS = 30.0  # between two looks, at most
BUSY_CORE = 0.2  # of a core, by one process; Ray's daemons and a queue that is polled take a few hundredths
BUSY_GPU = 10  # percent


class Activity:
    """Looks at an engine's processes now and then.

    Args:
        gpus: look at the GPUs, too, that this process may use.
        seconds: between two looks.
    """

    def __init__(self, gpus: bool, seconds: float) -> None:
        self._gpus, self._seconds = gpus, seconds
        self._looked, self._used = time.monotonic(), dict[int, float]()

    def seen(self, family: "Iterable[Process]") -> bool:
        """Whether something computed since the last look; False between two looks."""
        now = time.monotonic()
        if now - self._looked < self._seconds:
            return False
        before, self._used, passed = self._used, cpu_seconds(family), now - self._looked
        self._looked = now
        busy = any(used - before.get(pid, 0.0) > BUSY_CORE * passed for pid, used in self._used.items())
        return busy or (self._gpus and busiest_gpu() > BUSY_GPU)


def cpu_seconds(family: "Iterable[Process]") -> dict[int, float]:
    """Process id -> CPU seconds so far."""
    import psutil

    used = {}
    for process in family:
        try:
            times = process.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        used[process.pid] = times.user + times.system
    return used


def busiest_gpu() -> float:
    """Percent of the last moment in which the busiest GPU ran a kernel; 0 where none can be asked."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    only = [f"--id={chosen}"] if chosen else []
    asked = ["nvidia-smi", *only, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    shares = [line.strip() for line in (output_of(asked) or "").splitlines()]
    return max((float(share) for share in shares if share.replace(".", "").isdigit()), default=0.0)

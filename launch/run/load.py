"""How busy this machine is: idle cores and available memory."""

import os
from dataclasses import dataclass

SECONDS = 0.3  # over which idle cores are counted
BUSY = 0.6  # a machine whose idle part is smaller is busy
LITTLE_MEMORY = 0.25  # likewise


@dataclass(frozen=True)
class Load:
    """Of this moment, unlike the load average, in which the stage before still counts.

    Attributes:
        cores, idle: that this process may use, and how much of them nobody does.
        average: load average of the last minute, for comparison.
        memory, available: GiB.
    """

    cores: int
    idle: float
    average: float
    memory: float
    available: float

    @property
    def warning(self) -> str | None:
        """One sentence where the machine is busy, else None.

        >>> Load(cores=2, idle=1.9, average=2.0, memory=24.0, available=20.0).warning
        >>> Load(cores=2, idle=0.1, average=4.2, memory=24.0, available=5.0).warning
        'this machine is busy: 0.1 of 2 cores are idle (load average 4.2), 5 of 24 GiB of memory are available'
        """
        reasons = []
        if self.idle < BUSY * self.cores:
            reasons.append(f"{self.idle:.1f} of {self.cores} cores are idle (load average {self.average:.1f})")
        if self.available < LITTLE_MEMORY * self.memory:
            reasons.append(f"{self.available:.0f} of {self.memory:.0f} GiB of memory are available")
        return f"this machine is busy: {', '.join(reasons)}" if reasons else None


def measure() -> Load:
    """Takes SECONDS."""
    import psutil

    own, memory = os.sched_getaffinity(0), psutil.virtual_memory()
    busy = [percent for core, percent in enumerate(psutil.cpu_percent(SECONDS, percpu=True)) if core in own]
    idle = len(busy) - sum(busy) / 100
    return Load(len(own), idle, os.getloadavg()[0], memory.total / 2**30, memory.available / 2**30)

"""The smaller demo alone and beside busy loops, as many as this machine has cores and twice as many."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from launch.console import console
from launch.run import load
from launch.stages import STAGES
from tests.bench.row import Row
from tests.e2e.chain import command

AT_MOST = (2.0, float("inf"))  # of the idle time; beside twice as many loops as cores it has to go through


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def stage_seconds(runs: Path, loops: int) -> dict[str, float]:
    """Wall time of each stage beside that many loops.

    Raises:
        CalledProcessError: a stage failed.
    """
    console.print(f"{loops} loops; before they start, {load.measure().warning or 'nothing else runs'}")
    seconds = {}
    with busy_loops(loops):
        for stage in STAGES:
            begin = time.perf_counter()
            subprocess.run(command(stage, runs, f"loops{loops}"), check=True)
            seconds[stage] = time.perf_counter() - begin
    return seconds


def compare() -> tuple[Table, list[Row]]:
    """Seconds by stage, and the rows of the ratios."""
    cores = len(os.sched_getaffinity(0))
    counts = (0, cores, 2 * cores)
    with tempfile.TemporaryDirectory() as runs:
        seconds = {count: stage_seconds(Path(runs), count) for count in counts}
    table = Table("stage", *(f"{count} loops" for count in counts), title="seconds of the smaller demo")
    for stage in STAGES:
        table.add_row(stage, *(f"{seconds[count][stage]:.1f}" for count in counts))
    idle, *loaded = (sum(seconds[count].values()) for count in counts)
    what = [f"the smaller demo beside {count} busy loops | alone" for count in counts[1:]]
    return table, [Row(*row) for row in zip(what, loaded, [idle] * 2, AT_MOST, strict=True)]

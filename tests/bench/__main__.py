"""Time the parts that a run waits for, beside plain code that does the same work: python -m tests.bench [PART ...]

start: rendering, imports, forks. data: checking, normalising and reading clips. rewards, evaluation: scoring.
plan: a dry run. predict: vLLM. step: RL under plain verl and under ours, with the table of docs/performance.md. All of
them take half an hour on two cores.
Only where they are named: busy, the smaller demo three times, alone and beside busy loops, another quarter of an hour
or more; demo, its RL over `seeds` and changes of the numerics, ten minutes a run.
Absolute times depend on the machine and its load; ratios are compared within one run. A ratio above its threshold ends
in exit code 1, and so does a run of `demo` that misses its bounds.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pydantic import Field
from rich.table import Table

from data_tools.cli import Arguments, UsageError, run_command
from launch.console import console
from tests.bench import busy, data, demo, evaluation, plan, predict, rewards, step
from tests.bench.row import Row

REPEATS = 5
COMPARED: dict[str, Callable[[], list[Row]]] = {
    "rewards": lambda: rewards.rows(seconds),
    "evaluation": lambda: evaluation.rows(seconds),
    "plan": plan.rows,
    "predict": lambda: [Row(*row) for row in predict.rows()],
    "data": lambda: data.rows(seconds),
}
PARTS = ("start", *COMPARED, "step")
NAMED = ("busy", "demo")


def seconds(work: Callable[[], object]) -> float:
    """Median wall time of `work` over REPEATS runs, after one that does not count."""
    work()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return median(times)


def clips() -> tuple[str, float]:
    import numpy as np

    from data_tools.rendered.scene import draw_scene, draw_track, render_frames, write_clip

    def render_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(16):
                rng = np.random.default_rng(number)
                track = draw_track("pan_left", rng, frames=4, size=84, fps=2.0)
                write_clip(Path(folder) / "clip.mp4", render_frames(draw_scene(rng), track), 2.0)

    return "rendering 16 clips of 4 x 84 x 84, one core", seconds(render_all)


ENGINES = "import verl.workers.engine_workers, vllm.v1.engine.core"


def fresh(what: str, code: str) -> tuple[str, float]:
    return what, seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))


def forked() -> tuple[str, float]:
    """What the fork server spends on each process after its own imports: a fork, here of a child that ends at once."""
    code = f"""{ENGINES}
import os, sys, time
def fork():
    begin = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - begin
sys.stdout.write("\\n%f" % sorted(fork() for _ in range({REPEATS}))[{REPEATS} // 2])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return "the same, forked from a process that has them", float(done.stdout.splitlines()[-1])


class BenchArguments(Arguments):
    files: list[Path] = Field(
        [], description=f"what to time: {', '.join(PARTS)} (the default), or {' or '.join(NAMED)}"
    )
    seeds: list[int] = Field([0, 1, 2, 3, 4], description="of `demo`")


def main(arguments: BenchArguments) -> int:
    """Print the tables; 1 where a ratio exceeds its threshold."""
    parts = [str(part) for part in arguments.files] or list(PARTS)
    if unknown := set(parts) - {*PARTS, *NAMED}:
        raise UsageError(f"{', '.join(sorted(unknown))}: choose from {', '.join((*PARTS, *NAMED))}")
    if "start" in parts:
        console.print(start_times())
    rows = [row for part in COMPARED if part in parts for row in COMPARED[part]()]
    if rows:
        console.print(comparison(rows))
    if "step" in parts:
        tables, ratios = step.compare()
        console.print(*tables, comparison(ratios))
        rows += ratios
    if "busy" in parts:
        table, loaded = busy.compare()
        console.print(table, comparison(loaded))
        rows += loaded
    found = list(demo.outcomes(arguments.seeds)) if "demo" in parts else []
    if found:
        console.print(demo.table_of(found))
    for row in rows:
        if not row.passes:
            console.print(f"[red]too slow[/] {row.what}: ratio {row.ratio:.3f}, at most {row.at_most:.3g}")
    return 0 if all(row.passes for row in rows) and all(outcome.holds for outcome in found) else 1


def start_times() -> Table:
    table = Table("part", "seconds", title=f"median of {REPEATS}")
    for what, measured in (
        clips(),
        fresh("a command, up to its recipe", "import launch.rl"),
        fresh("a process that imports the engines", ENGINES),
        forked(),
    ):
        table.add_row(what, f"{measured:.4f}")
    return table


def comparison(rows: list[Row]) -> Table:
    table = Table("camreasoner | baseline", "seconds", "seconds", "ratio", "at most", title="side by side, medians")
    for row in rows:
        times = f"{row.camreasoner:.4f}", f"{row.baseline:.4f}"
        table.add_row(row.what, *times, f"{row.ratio:.3f}", f"{row.at_most:.3g}")
    return table


if __name__ == "__main__":
    run_command(main, BenchArguments, __doc__)

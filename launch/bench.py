"""Time the parts that a run waits for, side by side: python -m launch.bench [PART ...]

Absolute times depend on the machine and what else runs on it; compare rows of one run.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from launch import bench_data, bench_evaluation, bench_predict, bench_rewards, bench_step
from launch.recipe import ROOT
from launch.run import console

REPEATS = 5
COMPARED = {
    "rewards": lambda: bench_rewards.rows(seconds),
    "evaluation": lambda: bench_evaluation.rows(seconds),
    "predict": lambda: bench_predict.rows(),
    "data": lambda: bench_data.rows(seconds),
}
Part = StrEnum("Part", ["start", *COMPARED, "step"])


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

    from data_tools.render import draw_scene, draw_track, render, write_clip

    def render_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(16):
                rng = np.random.default_rng(number)
                track = draw_track("pan_left", rng, frames=4, size=84, fps=2.0)
                write_clip(Path(folder) / "clip.mp4", render(draw_scene(rng), track), 2.0)

    return "rendering 16 clips of 4 x 84 x 84, one core", seconds(render_all)


ENGINES = "import verl.workers.engine_workers, vllm.v1.engine.core"


def fresh(what: str, code: str) -> tuple[str, float]:
    return what, seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))


def forked() -> tuple[str, float]:
    """What `launch.zygote` spends on each process after its own imports: a fork, here of a child that ends at once."""
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
    return "the same, forked from one that has them", float(done.stdout.splitlines()[-1])


def main(
    parts: Annotated[
        list[Part] | None,
        typer.Argument(
            help="start: rendering, imports, forks; predict: vLLM; data: checking, normalising and reading clips; "
            "step: RL; all by default, a quarter of an hour on two cores."
        ),
    ] = None,
    run: Annotated[Path, typer.Option(help="A demo whose SFT is done, for `step`.")] = ROOT / "runs" / "demo" / "main",
) -> None:
    """Time the parts that a run waits for, side by side; compare rows of one run."""
    parts = parts or list(Part)
    if "step" in parts and not (run / "stages" / "sft.json").exists():
        raise typer.BadParameter(f"no SFT is done in {run}: `make demo` first, give --run, or name other parts")
    if "start" in parts:
        table = Table("part", "seconds", title=f"median of {REPEATS}")
        for row in (
            clips(),
            fresh("a command, up to its recipe", "import launch.rl"),
            fresh("a process that imports the engines", ENGINES),
            forked(),
        ):
            table.add_row(row[0], f"{row[1]:.4f}")
        console.print(table)

    chosen = [rows for part, rows in COMPARED.items() if part in parts]
    if chosen:
        title = f"side by side, median of {REPEATS}"
        table = Table("ours | theirs", "seconds", "seconds", "ratio", "target", title=title)
        for rows in chosen:
            for what, ours, theirs, target in rows():
                table.add_row(what, f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs:.3f}", target)
        console.print(table)

    if "step" in parts:
        console.print(bench_step.table(run))


if __name__ == "__main__":
    typer.run(main)

"""`make plan` of one experiment beside two bare processes that only import the engines' parsers, side by side."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from launch.engines.parsers import PARSERS
from launch.recipe import ROOT
from tests.bench.row import Row

REPEATS = 3


def rows() -> list[Row]:
    """Both by turns, so that other load meets both; the first turn, which fills the disk cache, is left out."""
    plan, imports = [], []
    for _ in range(1 + REPEATS):
        plan.append(timed(lambda: run("-m", "launch.plan", "experiment=camreasoner").wait()))
        imports.append(timed(import_parsers))
    what = "make plan EXPERIMENT=camreasoner | the parsers' imports alone, side by side"
    return [Row(what, median(plan[1:]), median(imports[1:]), at_most=1.3)]


def import_parsers() -> None:
    processes = [run("-c", "import " + ", ".join(modules)) for modules in PARSERS.values()]
    for process in processes:
        process.wait()


def run(*arguments: str) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    env = os.environ | {"DISABLE_VERSION_CHECK": "1", "VERL_PLATFORM": "cpu"}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=env, stdout=quiet, stderr=quiet)


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin

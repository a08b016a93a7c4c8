"""Hydra's launchers of a sweep (`-m`): its points on this machine, or as jobs on a Ray cluster.

Hydra's sweeper makes the points (`key=a,b`, `range()`, hydra/sweeper=...); a launcher runs them, each in a run folder
of its own. A point that fails does not end the sweep: it is listed with its command, and the exit code is 1.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from data_tools.cli import Terminated
from launch.cluster.results import objective, show
from launch.cluster.sweep import DONE, Point, link, points
from launch.console import console
from launch.recipe import ROOT, RecipeError
from launch.stages import STAGES, shared_needs

POLL_SECONDS = 5.0


class LocalLauncher(Launcher):
    """The points one after the other on this machine."""

    # Hydra takes plugins from this namespace only (1.3.8, core/plugins.py:103).
    __module__ = "hydra_plugins.camreasoner"

    def __init__(self, stages: Sequence[str] | None = None) -> None:
        self.stages = list(stages or [])
        self.points: list[Point] = []
        self.broken: dict[Path, str | None] = {}  # by base: the stage that failed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises:
        RecipeError: the command has no stages, or a stage is unknown.
        """
        task: Any = task_function  # made by launch.command: `stages`, and `codes` for the exit code
        self.task = task
        self.stages = self.stages or list(self.task.stages)
        if not self.stages or not set(self.stages) <= set(STAGES):
            raise RecipeError(f"hydra.launcher.stages={self.stages}: choose from {', '.join(STAGES)}")
        # Hydra's sweeper writes multirun.yaml, for which there is no use here.
        self.scratch = TemporaryDirectory(prefix="camreasoner-sweep-")
        config.hydra.sweep.dir = self.scratch.name
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        self.fixed = [
            f"{one.get_key_element()}={one.get_value_element_as_str()}" for one in parsed if not one.is_sweep_override()
        ]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run the points; what is done already is not done again."""
        batch = points(self.fixed, job_overrides, self.stages)
        self.points += batch
        console.print(f"{len(batch)} points, stages {', '.join(self.stages)}")
        self.run_all([point for point in batch if self._share(point)])
        if show(self.points):
            self.task.codes.append(1)
        returns = []
        for point, overrides in zip(batch, job_overrides):
            done = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            done.return_value = objective(point)
            returns.append(done)
        return returns

    def run_all(self, ready: Sequence[Point]) -> None:
        for point in ready:
            console.rule(point.run.recipe.name)
            for stage in self.stages:
                if not run_stage(stage, point.overrides):
                    point.state, point.command = f"{stage} failed", command_line(stage, point.overrides)
                    break
            else:
                point.state = DONE

    def _share(self, point: Point) -> bool:
        """Run the stages of the point's base, once, and link them; False when one of them failed."""
        shared = shared_needs(self.stages, point.base.recipe)
        if point.base.folder not in self.broken:
            failed = (stage for stage in shared if not run_stage(stage, point.base_overrides))
            self.broken[point.base.folder] = next(failed, None)
        if stage := self.broken[point.base.folder]:
            point.state, point.command = f"{stage} of its base failed", command_line(stage, point.base_overrides)
            return False
        if point.run.folder != point.base.folder:
            link(point.run, point.base, shared)
        return True


class JobLauncher(LocalLauncher):
    """The points as jobs on a Ray cluster, one job per stage, `at_once` points side by side."""

    __module__ = "hydra_plugins.camreasoner"

    def __init__(self, address: str, python: str, at_once: int, stages: Sequence[str] | None = None) -> None:
        super().__init__(stages)
        self.address, self.python, self.at_once = address, python, at_once

    def run_all(self, ready: Sequence[Point]) -> None:
        from launch.cluster.jobs import client

        queue, running = list(ready), dict[str, tuple[Point, int]]()
        jobs = client(self.address)
        while queue or running:
            while queue and len(running) < self.at_once:
                point = queue.pop(0)
                running[self._submit(point, 0)] = (point, 0)
            time.sleep(POLL_SECONDS)
            for job, (point, number) in list(running.items()):
                state = jobs.get_job_status(job)
                if not state.is_terminal():
                    continue
                del running[job]
                stage = self.stages[number]
                if state.value != "SUCCEEDED":
                    point.state, point.command = f"{stage} {state.value}", command_line(stage, point.overrides)
                elif number + 1 == len(self.stages):
                    point.state = DONE
                else:
                    running[self._submit(point, number + 1)] = (point, number + 1)

    def _submit(self, point: Point, number: int) -> str:
        from launch.cluster.jobs import submit

        return submit(self.stages[number], point.overrides, self.address, self.python)


def register() -> None:
    """Make the launchers known to Hydra, under the module name that it looks them up by."""
    plugins = Plugins.instance()
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    for launcher in (LocalLauncher, JobLauncher):
        plugins.register(launcher)
    sys.modules["hydra_plugins.camreasoner"] = sys.modules[__name__]
    package.camreasoner = sys.modules[__name__]  # type: ignore[attr-defined]  # a module takes any attribute


def command_line(stage: str, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"launch.{stage}", *overrides]


def run_stage(stage: str, overrides: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
    """Whether a stage, in a process of its own, succeeded; Ctrl-C reaches it too, so wait for what it says and ends."""
    process = subprocess.Popen(command_line(stage, overrides), cwd=ROOT, env=env)
    try:
        return process.wait() == 0
    except KeyboardInterrupt as stopped:
        if isinstance(stopped, Terminated):
            process.terminate()
        sys.exit(process.wait())

"""A job for vLLM's process: which questions go to which model, and where the records go."""

import json
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from data_tools.controls import Control
from data_tools.files import repair_last_line, whole_lines, write_json
from data_tools.prompt import Form
from launch.engines.environment import policy_devices
from launch.engines.watch import run_engine
from launch.recipe import Recipe
from launch.recipe.evaluation import Media

ENV = {"VERL_PLATFORM": ""}  # of vLLM's process: verl, which takes long to import, has no part in it


class Questions(BaseModel):
    """A file of samples, how they are asked, and the file of their records.

    Attributes:
        root: what the samples' clips are relative to.
        media: the budget that the clips are in.
        form: prompt and reward.
        control: under which they are asked.
        ask: for the greedy response, votes and probabilities of options as the recipe has them, or for one of the first
            two alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    samples: Path
    root: Path
    media: Media
    form: Form
    control: Control | None = None
    ask: Literal["all", "greedy", "sampled"] = "all"
    out: Path


class Job(BaseModel):
    """Questions by model folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    recipe: Recipe
    models: dict[str, list[Questions]]

    @property
    def questions(self) -> list[Questions]:
        return [part for parts in self.models.values() for part in parts]


def run_job(job: Job, path: Path, log: Path, what: str) -> None:
    """Append the records that are missing, in a process of its own; `path`: the file by which it takes the job.

    Raises:
        LaunchError: the process failed, or showed no progress for too long.
    """
    write_json(path, job.model_dump(mode="json"))
    total = sum(_lines(part.samples) for part in job.questions)
    if sum(len(answered_ids(part.out)) for part in job.questions) < total:
        run_engine(
            job.recipe,
            ["launch.engines.vllm.main", str(path)],
            log,
            what,
            total,
            lambda: sum(_lines(part.out) for part in job.questions),
            ENV | policy_devices(job.recipe),
        )


def answered_ids(path: Path) -> set[str]:
    """Ids of the records in a file; a truncated last line is removed with a warning."""
    if repair_last_line(path):
        sys.stderr.write(f"warning: {path}: the last line was truncated and is removed\n")
    return {json.loads(line)["id"] for line in whole_lines(path)}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0

"""A run: its folder, what is done in it, with which settings, at what cost."""

import fcntl
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from data_tools.files import sha256, write_json, write_text
from data_tools.media.budget import MediaError
from data_tools.media.store import require_budget
from data_tools.run_folder import RunFolder
from launch.console import console
from launch.errors import LaunchError
from launch.memory import MemoryMeter
from launch.planning.sizes import ranks
from launch.recipe import Recipe
from launch.run import load, records
from launch.stages import LENGTHS, LIMITS, RECORDED, SHAPE, STAGES, all_needs

_UNDIVIDED = "Its checkpoints are divided among that many GPUs, and go on with as many only. "


@dataclass(frozen=True)
class Run:
    """One run's recipe and folder; `paths` spells what lies in it.

    `given`: the overrides that the recipe was composed from, where a command line gave them.
    """

    recipe: Recipe
    folder: Path
    given: tuple[str, ...] = ()

    @cached_property
    def paths(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def data(self) -> Path:
        return self.paths.data

    @property
    def media_root(self) -> Path:
        """What the clips of data/*.jsonl are relative to; they are in the media budget (`data_tools.media`)."""
        return self.data

    @property
    def store(self) -> Path:
        """Normalised clips, shared by all runs."""
        return self.folder.parent.parent / "clips"

    @property
    def base_model(self) -> str:
        """Hugging Face id or folder of the model before SFT."""
        path = self.recipe.model.path
        if path is None:
            return str(self.paths.model)
        return path

    def sft_checkpoint(self, epoch: int) -> str:
        """Folder of the model after `epoch` epochs of SFT; the base model for 0."""
        if epoch == 0:
            return self.base_model
        steps = sorted(int(path.name.split("-")[1]) for path in self.paths.sft.glob("checkpoint-*"))
        if len(steps) != self.recipe.sft.num_train_epochs:
            raise LaunchError(
                f"{self.paths.sft} holds {len(steps)} checkpoints instead of one for each of the "
                f"{self.recipe.sft.num_train_epochs} epochs; run the sft stage again with force=true"
            )
        name = f"checkpoint-{steps[epoch - 1]}"
        return str(self.paths.sft_merged(name) if self.recipe.lora else self.paths.sft / name)

    @property
    def sft_model(self) -> str:
        """The SFT model: the checkpoint that RL starts from, or the last one where RL starts from the base model."""
        return self.sft_checkpoint(self.recipe.rl.start_epoch or self.recipe.sft.num_train_epochs)

    @property
    def merged(self) -> Path:
        return self.paths.merged

    def log(self, stage: str) -> Path:
        path = self.paths.log(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # ------------------------------------------------------------ stages

    def output(self, stage: str) -> Path:
        """Folder of what a stage makes."""
        return self.folder / STAGES[stage].output

    def record(self, stage: str) -> dict[str, Any] | None:
        return records.read(self.paths.record(stage))

    def settings(self, stage: str) -> dict[str, Any]:
        """The part of the recipe that decides a stage's result."""
        recipe = self.recipe.model_dump(mode="json")
        recipe["model"].pop("architecture")  # only plans read it
        recipe["cluster"]["ranks"] = ranks(self.recipe, stage)
        if stage == "rl":
            recipe["rl"].pop("checkpoint")  # merge alone reads it
            if self.recipe.rl.by_difficulty and self.paths.difficulty_kept.exists():
                recipe["rl"]["by_difficulty"] = sha256(self.paths.difficulty_kept)
        recipe["schemas"] = self.recipe.form.schemas  # what prompts and chains depend on of the reward
        chosen = {"seed": recipe["seed"]}
        for key in STAGES[stage].settings:
            value: Any = recipe
            for part in key.split("."):
                value = value[part]
            chosen[key] = value
        return chosen

    def require(self, *stages: str) -> None:
        """Raise unless the stages are done with this recipe's settings, their output is still there, and the clips are
        in its media budget.
        """
        for stage in stages:
            record = self.record(stage)
            if record is None:
                raise LaunchError(f"stage {stage!r} of {self.folder} is not done: run `{self._command(stage)}` first")
            self._require_settings(stage, record)
            records.require_output(stage, self.output(stage), record)
        if "data" in stages:
            try:
                require_budget(self.data, self.recipe.budget, self.recipe.stills_of(self.recipe.media))
            except MediaError as error:
                raise LaunchError(
                    f"{error}\ntake that budget, another name=..., or run stage data again: force=true"
                ) from error

    def _command(self, stage: str) -> str:
        recipe = self.recipe
        own = [f"experiment={recipe.experiment}", f"name={recipe.name}", f"seed={recipe.seed}"]
        return shlex.join(["python", "-m", f"launch.{stage}", *(self.given or own)])

    def _require_settings(self, stage: str, record: dict[str, Any]) -> None:
        records.refuse_format(stage, self.folder, record)
        if changed := records.changed(stage, record["settings"], self.settings(stage), but=("cluster.",)):
            raise LaunchError(
                f"stage {stage!r} of {self.folder} was done with other settings, which this command cannot change: "
                f"{', '.join(changed)}. Leave them, choose another name=..., or run that stage again: force=true"
            )

    def require_one_recipe(self, beginning: str | None = None, but: Sequence[str] = ()) -> None:
        """Raise unless this recipe is what all stages were done with, so that recipe.yaml holds for each of them.

        Args:
            beginning: a stage that is done anew, and with it those that build on it.
            but: stages that are not looked at.
        """
        for stage in RECORDED:
            anew = beginning is not None and beginning in (stage, *all_needs(stage, self.recipe))
            if not anew and stage not in but and (record := self.record(stage)):
                self._require_settings(stage, record)

    def upstream(self, stage: str) -> dict[str, str]:
        """When each stage that it builds on finished."""
        records = {earlier: self.record(earlier) for earlier in all_needs(stage, self.recipe)}
        return {earlier: record["finished"] for earlier, record in records.items() if record}


def run_of(recipe: Recipe, given: Sequence[str] = ()) -> Run:
    """The run of a recipe, which the overrides `given` composed; nothing is written."""
    return Run(recipe, recipe.folder, tuple(given))


def finished(run: Run, name: str) -> dict[str, Any] | None:
    """The record of a stage that is done with these settings and on this input; None where it has to run, or to go on.

    Raises:
        LaunchError: it was done with other settings, an earlier stage was run again since, or its output is gone; says
            which.
    """
    record = None if run.recipe.force else run.record(name)
    if record is None:
        return None
    records.refuse_format(name, run.folder, record)
    old, new, newer = record["settings"], run.settings(name), records.newer(record, run.upstream(name))
    changed = records.changed(name, old, new, but=(SHAPE, *LENGTHS)) + records.shortened(old, new)
    if STAGES[name].completes:
        return None if changed or newer or records.lost(run.output(name), record) else record
    if changed:
        raise LaunchError(
            f"stage {name!r} of {run.folder} was done with other settings: {', '.join(changed)}. "
            "Choose another name=..., or force=true to run it again"
        )
    if newer:
        raise LaunchError(
            f"stage {name!r} of {run.folder} is older than {', '.join(newer)}: run it again with force=true"
        )
    if records.raised(old, new, LENGTHS):
        return None
    records.require_output(name, run.output(name), record)
    return record


@contextmanager
def stage(run: Run, name: str) -> Iterator[bool]:
    """Run a stage once: yields False when it is done already, else True, and records its cost.

    A stage that is done, or refused, writes nothing.

    Raises:
        LaunchError: see `finished`.
    """
    if record := finished(run, name):
        console.print(f"[green]{name}[/] done already ({record['wall_seconds']:.0f} s): {run.folder}")
        if loosened := records.raised(record["settings"], run.settings(name), LIMITS):
            what = ", ".join(loosened)
            console.print(f"  {what}: what it left out stays left out; force=true takes it in", markup=False)
        yield False
        return
    run.require_one_recipe(beginning=name)
    with owned(run.paths.lock, name):
        yield from _work(run, name)


def _work(run: Run, name: str) -> Iterator[bool]:
    settings, upstream = run.settings(name), run.upstream(name)
    started, manifest = _start(run, name, settings, upstream), records.manifest(run.recipe)
    console.print(f"[bold]{name}[/] → {run.folder}")
    if warning := load.measure().warning:
        console.print(f"  [yellow]{warning}[/]")
    start = time.monotonic()
    with MemoryMeter() as meter:
        yield True
    wall = started["wall_seconds"] + time.monotonic() - start
    record = {
        "format": records.FORMAT,
        "stage": name,
        "started": started["started"],
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        "wall_seconds": round(wall, 1),
        "peak_rss_gib": round(max(meter.peak_gib, started["peak_rss_gib"]), 2),
        "settings": settings,
        "upstream": upstream,
        "manifest": manifest,
        "output": records.inventory(run.output(name)),
    }
    write_json(run.paths.record(name), record)
    run.paths.started(name).unlink()
    console.print(f"[green]{name}[/] done in {wall:.0f} s, peak {record['peak_rss_gib']:.1f} GiB")


@contextmanager
def owned(lock: Path, name: str) -> Iterator[None]:
    """Hold a run folder, so that no other process works in it meanwhile; the kernel ends that with this process.

    Raises:
        LaunchError: another one holds it; says which, on what host.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "by another process"
            raise LaunchError(
                f"{lock.parent} is in use: {holder}. Wait for it, end it, or choose another name=..."
            ) from error
        except OSError as error:  # file systems that know no locks
            console.print(
                f"[yellow]warning[/] {lock.parent} cannot be locked ({error.strerror}): start no second stage in it"
            )
        file.truncate(0)
        file.write(f"stage {name!r} runs as process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _start(run: Run, name: str, settings: dict[str, Any], upstream: dict[str, str]) -> dict[str, Any]:
    """When an unfinished stage first started; one that resumes does so with the settings and input it started with."""
    path, output, work = run.paths.started(name), run.output(name), STAGES[name].work
    if not run.recipe.force and (started := _begun(run, name)):
        resumable = work is not None and any(output.glob(work))
        if resumable:
            records.refuse_format(name, run.folder, started)
        changed = records.changed(name, started["settings"], settings, but=LENGTHS) + records.shortened(
            started["settings"], settings
        )
        changed += [f"{earlier} was run again" for earlier in records.newer(started, upstream)]
        if not changed or (resumable and STAGES[name].completes):
            raised = records.raised(started["settings"], settings, LIMITS + LENGTHS)
            if raised:
                console.print(f"  goes on with {', '.join(raised)}", markup=False)
                write_json(path, started | {"settings": settings})
                run.paths.record(name).unlink(missing_ok=True)
            write_recipe(run, [f"{name}: {change}" for change in raised])
            return started
        if resumable:
            why = _UNDIVIDED if any(change.startswith(SHAPE) for change in changed) else ""
            raise LaunchError(
                f"stage {name!r} of {run.folder} was started with other settings or input: {', '.join(changed)}. {why}"
                "Choose another name=..., or force=true to start again"
            )
        console.print(f"{name} starts again, since nothing is lost: {', '.join(changed)}", markup=False)
    if run.recipe.force or (path.exists() and not STAGES[name].completes):
        if output.exists() and not output.is_symlink() and not run.paths.recipe.exists():
            raise LaunchError(
                f"{run.folder} is no run folder, and {output} is not deleted: choose another runs= or name="
            )
        _remove(output)
    started = {
        "format": records.FORMAT,
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "settings": settings,
        "upstream": upstream,
        "wall_seconds": 0.0,
        "peak_rss_gib": 0.0,
    }
    run.paths.record(name).unlink(missing_ok=True)
    write_recipe(run)
    write_json(path, started)
    return started


def _begun(run: Run, name: str) -> dict[str, Any] | None:
    """What an unfinished stage was started with; of one that is done, and is to train longer, its record.

    Raises:
        LaunchError: it is another run's.
    """
    if begun := records.read(run.paths.started(name)):
        return begun
    if run.output(name).is_symlink():
        raise LaunchError(f"{run.output(name)} is another run's ({run.paths.shared.name} names it): train that one on")
    return None if STAGES[name].completes else run.record(name)


def write_recipe(run: Run, loosened: Sequence[str] = ()) -> None:
    """Keep what the run is made with, by which code, and which limits were loosened while a stage was under way."""
    path = run.paths.manifest
    try:
        before = json.loads(path.read_text()).get("loosened", []) if path.exists() else []
    except ValueError as error:
        raise LaunchError(f"{path} was cut or edited, and cannot be read ({error}): delete it") from error
    write_text(run.paths.recipe, yaml.safe_dump(run.recipe.stored(), sort_keys=False))
    write_json(path, records.manifest(run.recipe) | {"loosened": [*before, *loosened]})


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # another run's, which keeps it
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)

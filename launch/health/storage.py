"""Disk of the run folder, the labels and videos, and the models."""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from launch.health.finding import Finding, State
from launch.planning.memory import disk, total
from launch.recipe import Recipe
from launch.run import run_of
from launch.samples.labels import files_of
from rewards.errors import UserError

WRITTEN = 256 * 2**20  # bytes that are written to learn how fast a disk is
SLOW_MINUTES = 10.0  # for a checkpoint
VIDEOS = 8  # of each split that are opened
HUB_SECONDS = 10


def existing(folder: Path) -> Path:
    """The folder itself, or the first of its parents that is there."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def run_disk(recipe: Recipe) -> Finding:
    """Room for what the run leaves, how fast it is written, and whether files can be locked."""
    folder = run_of(recipe).folder
    there = existing(folder)
    if not os.access(there, os.W_OK):
        return Finding("run folder", "wrong", f"{there} cannot be written", "runs=<a folder of yours>")
    try:
        speed = write_speed(there)
    except OSError as error:
        return Finding("run folder", "wrong", f"{there}: {error.strerror}", "runs=<a disk with locks and room>")
    free = shutil.disk_usage(there).free / 1e9
    seen = f"{folder}: {free:,.0f} GB free, {speed:.2g} GB/s written"
    if recipe.model.architecture is None:
        return Finding("run folder", "ok", seen)
    parts = disk(recipe)
    need = total(parts.values())
    if free < need.likely:
        lacking: State = "wrong" if free < need.low else "doubtful"
        seen += f"; the run takes {need.show('GB')}"
        return Finding("run folder", lacking, seen, "runs=<elsewhere>; make plan says what takes it")
    minutes = parts["RL checkpoints"].likely / (recipe.rl.keep_checkpoints + 1) / speed / 60
    if minutes > SLOW_MINUTES:
        seen += f": {minutes:.0f} minutes a checkpoint"
        return Finding("run folder", "doubtful", seen, "a faster disk for runs=, rl.save_every higher")
    return Finding("run folder", "ok", seen)


def write_speed(folder: Path) -> float:
    """GB per second that reach the disk.

    Raises:
        OSError: no room, or a file system without locks, by which a run folder has one owner.
    """
    block = os.urandom(2**20)
    with tempfile.TemporaryFile(dir=folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        start = time.monotonic()
        for _ in range(WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / (time.monotonic() - start) / 1e9


def media(recipe: Recipe) -> Finding:
    """The label files, and the first videos of each, opened and read."""
    if recipe.data.rendered is not None:
        return Finding("labels and videos", "not needed", "the clips are rendered")
    unset = [path for path in (recipe.data.media_root, *all_labels(recipe)) if path and path.startswith("<")]
    if unset:
        keys = ", ".join(dict.fromkeys(path.strip("<>") for path in unset))
        return Finding("labels and videos", "doubtful", f"not set: {keys}", "give them, and they are read")
    try:
        paths = list(media_paths(recipe))
    except (UserError, OSError) as error:
        return Finding("labels and videos", "wrong", str(error), "data.files, data.media_root; docs/data.md")
    bad = []
    for path in paths:
        try:
            with path.open("rb") as file:
                file.read(2**16)
        except OSError as error:
            bad.append(f"{path}: {error.strerror}")
    if bad:
        return Finding(
            "labels and videos",
            "wrong",
            f"{len(bad)} of {len(paths)} cannot be read: {bad[0]}",
            "data.media_root: the folder that the labels' paths begin in; python -m data_tools.check reads all of them",
        )
    return Finding("labels and videos", "ok", f"{len(paths)} files read below {recipe.data.media_root}")


def all_labels(recipe: Recipe) -> list[str]:
    return [path for paths in recipe.data.paths().values() for path in paths]


def media_paths(recipe: Recipe) -> Iterator[Path]:
    """The label files, and the first videos of each split.

    Raises:
        SampleError, SourceError, OSError: a bad label file.
    """
    from data_tools.labels import read_split

    root = Path(recipe.data.media_root or "")
    for split in recipe.data.files or {}:
        if files := files_of(recipe, split):
            yield from (file.path for file in files)
            samples = read_split(files, split)
            yield from dict.fromkeys(root / name for sample in islice(samples, VIDEOS) for name in sample.media)


def hub(recipe: Recipe) -> Finding:
    """Models of the hub that the recipe asks for: in the cache, or within reach."""
    wanted = hub_models(recipe)
    if not wanted:
        return Finding("hub", "not needed", "the recipe asks for no model of the hub")
    missing = [name for name in wanted if not cached(name)]
    if not missing:
        return Finding("hub", "ok", f"in the cache: {', '.join(wanted)}")
    remedy = f"on a machine with access, HF_HOME shared: hf download {missing[0]}; behind a mirror, HF_ENDPOINT"
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    size = 0
    for name in missing:
        try:
            files = HfApi().model_info(name, timeout=HUB_SECONDS, files_metadata=True).siblings or []
        except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError) as error:
            return Finding("hub", "wrong", f"{name}: {str(error).splitlines()[0]}", remedy)
        size += sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
    seen = f"{', '.join(missing)}: within reach, {size / 1e9:.0f} GB to download to {constants.HF_HUB_CACHE}"
    if shutil.disk_usage(existing(Path(constants.HF_HUB_CACHE))).free < size:
        return Finding("hub", "wrong", f"{seen}, which has no room", "HF_HOME=<a larger disk>")
    return Finding("hub", "ok", seen)


def hub_models(recipe: Recipe) -> list[str]:
    named = [recipe.model.path, *(recipe.eval.models or {}).values()]
    ids = [name for name in dict.fromkeys(named) if name and name.count("/") == 1]
    return [name for name in ids if not Path(name).exists()]


def cached(name: str) -> bool:
    """Whether all weights of a model are in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    def there(file: str) -> str | None:
        path = try_to_load_from_cache(name, file)
        return path if isinstance(path, str) else None

    if there("config.json") is None:
        return False
    index = there("model.safetensors.index.json")
    files = set(json.loads(Path(index).read_text())["weight_map"].values()) if index else {"model.safetensors"}
    return all(there(file) for file in files)

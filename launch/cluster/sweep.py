"""Points of a sweep, and the stages that they share.

Points that agree in the stages before the first one swept share them: these are run once, in a base run, and linked
into each point (`shared.json` names the base).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from data_tools.files import write_json
from launch.compose import compose_complete
from launch.errors import LaunchError
from launch.recipe import Recipe, RecipeError
from launch.run import Run, run_of
from launch.stages import shared_needs

DONE = "done"


@dataclass
class Point:
    """One combination of the swept values."""

    values: dict[str, str]
    overrides: list[str]
    run: Run
    base: Run
    base_overrides: list[str]
    state: str = "waiting"
    command: list[str] = field(default_factory=list)


def points(fixed: Sequence[str], jobs: Sequence[Sequence[str]], stages: Sequence[str]) -> list[Point]:
    """The points of a sweep.

    Args:
        fixed: overrides that all points have.
        jobs: all overrides of each point, as Hydra's sweeper lists them.

    Raises:
        RecipeError: nothing swept, a wrong recipe, a swept name, two points of one name.
    """
    chosen_by_job = [[one for one in job if one not in fixed] for job in jobs]
    keys = {one.partition("=")[0] for chosen in chosen_by_job for one in chosen}
    if not keys:
        raise RecipeError("nothing to sweep: give a key several values, e.g. reward.format_weight=0.0,0.1")
    if "name" in keys:
        raise RecipeError("name is made from the swept values: sweep another key")
    first = compose_complete(fixed)
    # The values that the shared stages depend on make the base run; the others only the point.
    before = _upstream(first, stages)
    each = dict.fromkeys(one for chosen in chosen_by_job for one in chosen)
    decides = {one for one in each if _upstream(compose_complete([*fixed, one]), stages) != before}
    found: dict[str, Point] = {}
    for chosen in chosen_by_job:
        upstream = [one for one in chosen if one in decides]
        overrides = [*fixed, *chosen, f"name={_name(first.name, chosen)}"]
        base = [*fixed, *upstream, f"name={_name(first.name, upstream)}"]
        values = {key: value for key, _, value in (one.partition("=") for one in chosen)}
        point = Point(values, overrides, run_of(compose_complete(overrides)), run_of(compose_complete(base)), base)
        if point.run.recipe.name in found:
            raise RecipeError(f"two points of the sweep are called {point.run.recipe.name}: {', '.join(chosen)}")
        found[point.run.recipe.name] = point
    return list(found.values())


def _upstream(recipe: Recipe, stages: Sequence[str]) -> dict[str, Any]:
    return {stage: run_of(recipe).settings(stage) for stage in shared_needs(stages, recipe)}


def _name(base: str, chosen: Sequence[str]) -> str:
    """Folder name of a point: `main-format_weight0.1-seed2`."""
    return "-".join([base, *(_slug(*one.split("=", 1)) for one in chosen)])


def _slug(key: str, value: str) -> str:
    text = key.lstrip("+").rsplit(".", 1)[-1] + value
    slug = "".join(c if c.isascii() and c.isalnum() or c in "._" else "_" for c in text)
    return slug if text.isascii() else f"{slug}_{sha256(text.encode()).hexdigest()[:6]}"


def link(point: Run, base: Run, stages: Sequence[str]) -> None:
    """Give a point the stages of its base run, by links that `shared.json` names.

    Raises:
        LaunchError: the point has such a stage of its own, or the base's was done with other settings.
    """
    for stage in stages:
        record = base.record(stage)
        if record is None:
            raise LaunchError(f"stage {stage!r} of {base.folder} is not done, so {point.folder} cannot share it")
        if record["settings"] != point.settings(stage):
            raise LaunchError(f"stage {stage!r} of {base.folder} has other settings than {point.folder} asks for")
        pairs = [(point.output(stage), base.output(stage)), (point.paths.record(stage), base.paths.record(stage))]
        for link, target in pairs:
            if not link.is_symlink() and link.exists():
                raise LaunchError(f"{link} is the point's own: choose another name=... or remove {point.folder}")
            if target.exists():  # a model that is downloaded has no folder here
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(target)
    write_json(point.paths.shared, {"base": str(base.folder), "stages": list(stages)})

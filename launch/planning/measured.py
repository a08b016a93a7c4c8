"""The rates that a plan counts with: those measured on such a machine, else those of calibration.yaml."""

from math import inf
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from data_tools.run_folder import CALIBRATION
from launch.errors import LaunchError
from launch.planning.ranges import Range, calibration
from launch.recipe import Recipe
from launch.recipe.evaluation import Part


class Measured(Part):
    """What `make calibrate` writes.

    `kind`: cluster.gpu, or "cpu". `busy`: what else the machine did. `rates` lie over those of calibration.yaml.
    """

    kind: str
    device: str
    date: str
    busy: str | None
    model: str
    figures: dict[str, float]
    rates: dict[str, Any]


def measured_path(recipe: Recipe) -> Path:
    """Where `make calibrate` writes, for all runs of this folder."""
    return recipe.folder.parent.parent / CALIBRATION


def measured(recipe: Recipe) -> Measured | None:
    """What was measured, on whatever kind of machine; None where nothing was.

    Raises:
        LaunchError: the file is not one that `make calibrate` of this version writes.
    """
    path = measured_path(recipe)
    if not path.exists():
        return None
    try:
        found = Measured.model_validate(yaml.safe_load(path.read_text()))
        laid_over(calibration(), found.rates)
    except (ValidationError, yaml.YAMLError, ValueError) as error:
        raise LaunchError(
            f"{path}: {_fault(error)}. This is not what make calibrate writes: run it again, or remove the file, and "
            "the plan counts with assumed rates"
        ) from error
    return found


def applies(found: Measured, recipe: Recipe) -> bool:
    """Whether it was measured on the recipe's kind of machine."""
    return found.kind == (recipe.cluster.gpu if recipe.cluster.device == "cuda" else "cpu")


def rates(recipe: Recipe) -> dict[str, Any]:
    """`calibration.yaml`, and over it what was measured on such a machine."""
    found = measured(recipe)
    table: dict[str, Any] = calibration()
    return table if found is None or not applies(found, recipe) else laid_over(table, found.rates)


def laid_over(below: Any, above: Any, key: str = "rates") -> Any:
    """The tree of rates `below`, with those of `above` in their place.

    Raises:
        ValueError: naming a key of `above` that `below` has not, or a value of another form.

    Example:
        >>> laid_over({"a": {"b": 1, "c": Range(1, 2, 3)}}, {"a": {"c": [4, 5, 6]}})
        {'a': {'b': 1, 'c': Range(low=4, likely=5, high=6)}}
    """
    if isinstance(below, dict):
        if not isinstance(above, dict):
            raise ValueError(f"{key}: {above!r} is not a table")
        if unknown := sorted(map(str, above.keys() - below.keys())):
            raise ValueError(f"{key}.{unknown[0]}: launch/planning/calibration.yaml has no such rate")
        return {
            name: laid_over(value, above[name], f"{key}.{name}") if name in above else value
            for name, value in below.items()
        }
    numbers = above if isinstance(below, Range) else [above]
    if not (
        isinstance(numbers, list)
        and len(numbers) == (3 if isinstance(below, Range) else 1)
        and all(isinstance(one, int | float) and 0 <= one < inf for one in numbers)
        and numbers == sorted(numbers)
    ):
        raise ValueError(
            f"{key}: {above!r} is not {'[low, likely, high]' if isinstance(below, Range) else 'one number'}"
        )
    return Range(*numbers) if isinstance(below, Range) else above


def _fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return " ".join(str(error).split())

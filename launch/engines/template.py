"""Configurations of the engines as YAML templates, filled from a recipe by OmegaConf's interpolation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from launch.recipe import Recipe


def fill(templates: Sequence[Path], recipe: Recipe, run: dict[str, Any]) -> dict[str, Any]:
    """The templates, each laid over those before it, as plain values.

    Args:
        templates: YAML files in which `${recipe.rl.temperature}` is a value of the recipe.
        run: what a template calls `${run....}`: all that code has to decide.
    """
    template = OmegaConf.merge(*map(OmegaConf.load, templates))
    whole = OmegaConf.create({"recipe": recipe.model_dump(mode="json"), "run": run, "config": template})
    return cast(dict[str, Any], OmegaConf.to_container(whole.config, resolve=True))

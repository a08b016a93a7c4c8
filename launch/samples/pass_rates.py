"""The pass rates that `launch.difficulty` recorded in a run folder, for RL and for plans."""

import json
from typing import Any

from data_tools.files import sha256
from data_tools.run_folder import RunFolder
from evaluation.difficulty import Rated, keep_rate, read_rates
from launch.errors import LaunchError
from launch.recipe import Recipe

AGAIN = "run python -m launch.difficulty"


def recorded(recipe: Recipe) -> dict[str, Any] | None:
    """The summary of the run's pass rates; None where there are none."""
    path = RunFolder(recipe.folder).difficulty_summary
    return json.loads(path.read_text()) if path.exists() else None


def made_of(recipe: Recipe) -> dict[str, Any]:
    """What in the recipe and the data decides which questions are kept."""
    data = RunFolder(recipe.folder).samples("rl")
    return {
        "difficulty": recipe.difficulty.model_dump(),
        "seed": recipe.seed,
        "temperature": recipe.rl.temperature,
        "tokens": recipe.rl.max_response_length,
        "start_epoch": recipe.rl.start_epoch,
        "data": sha256(data) if data.exists() else None,
    }


def kept_ids(recipe: Recipe) -> list[str]:
    """Ids of the prompts to train on, in order.

    Raises:
        LaunchError: there are none, or they were chosen by other settings or of other data.
    """
    folder, told = RunFolder(recipe.folder), recorded(recipe)
    if told is None:
        raise LaunchError(f"rl.by_difficulty: {folder.difficulty_summary} is missing: {AGAIN} first")
    now = made_of(recipe)
    if changed := [key for key in now if told["made_of"].get(key) != now[key]]:
        raise LaunchError(f"{folder.difficulty} was made with another {', '.join(changed)}: {AGAIN} again")
    return [json.loads(line)["id"] for line in folder.difficulty_kept.read_text(encoding="utf-8").splitlines()]


def trained_on(recipe: Recipe) -> list[Rated]:
    """The questions, with their pass rates, that RL would train on; empty where they are unknown."""
    path = RunFolder(recipe.folder).pass_rates
    found = read_rates(path) if path.exists() else []
    return [each for each in found if each.verdict == "kept" or not recipe.rl.by_difficulty]


def expected_keep_rate(recipe: Recipe) -> tuple[float, float] | None:
    """Part of the groups that the online filter keeps, with its standard error; None where it is not known."""
    chosen = recipe.rl.filter
    if not chosen.enabled or chosen.mode != "mean" or chosen.metric != "accuracy":
        return None
    return keep_rate(trained_on(recipe), recipe.rl.group_size, chosen.low, chosen.high)

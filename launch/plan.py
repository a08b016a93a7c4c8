"""Dry run: render both engines' configurations and have the engines' own parsers check them; no GPU, no data.

python -m launch.plan                                           every experiment of recipes/
python -m launch.plan experiment=camreasoner rl.group_size=16   one of them, with overrides
python -m launch.plan experiment=camreasoner plan.against=runs/camreasoner/main     what differs from a run
python -m launch.plan experiment=camreasoner plan.save=plans/mine                   keep what is rendered

Required keys that are not set (paths of data) are filled with placeholders, shown as such. What certainly does not fit
the cluster is refused; what probably does not is printed as doubtful. Formulas and error bars: docs/plan.md.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from data_tools.cli import explain
from data_tools.files import write_text
from data_tools.run_folder import SPLITS, RunFolder
from launch.command import hydra_command
from launch.compose import compose_recipe, differences, experiments, require_change
from launch.engines import parsers
from launch.planning.fits import fits
from launch.planning.prompts import check_prompts, examples, prompts
from launch.planning.show import plan_table
from launch.planning.sizes import rl_steps, visual_tokens
from launch.recipe import Recipe, RecipeError
from rewards.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table


def check(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Render both engines' configurations, have the engines check them, and give all three by name.

    Raises:
        RecipeError, LaunchError: naming the key.
    """
    from launch.checks import check_counts, check_motions, check_rewards
    from launch.compose import rendered_settings
    from launch.models import require_family

    if recipe.model.path is not None:
        require_family(recipe, Path(recipe.model.path))
    if recipe.data.rendered is not None:
        rendered_settings(recipe)
    _require_room_for_clips(recipe)
    problems, _ = fits(recipe)
    if problems:
        raise RecipeError("this does not fit:\n" + "\n".join(f"  {problem}" for problem in problems))
    check_prompts(recipe)
    check_rewards(recipe)
    check_counts(recipe)
    check_motions(recipe)
    rendered = render(recipe)
    parsers.check(recipe, {"llamafactory": rendered["sft"], "verl": rendered["rl"]})
    return rendered


def _require_room_for_clips(recipe: Recipe) -> None:
    tokens = visual_tokens(recipe)
    limits = {"sft.cutoff_len": recipe.sft.cutoff_len, "rl.max_prompt_length": recipe.rl.max_prompt_length}
    for key, limit in limits.items():
        if tokens >= limit:
            raise RecipeError(f"{key}={limit} cannot hold the {tokens} visual tokens of a clip and its question")


def render(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe and both engines' configurations: recipe, sft, rl."""
    from launch.engines.llamafactory import config as llamafactory
    from launch.engines.verl import config as verl
    from launch.run import run_of

    run = run_of(recipe)
    start = f"{run.folder / 'sft'}/<epoch {recipe.rl.start_epoch}>" if recipe.rl.start_epoch else run.base_model
    rl: Any = OmegaConf.to_container(verl.render(run, start, rl_steps(recipe) or 1))
    return {"recipe": recipe.stored(), "sft": llamafactory.render(run), "rl": rl}


# ------------------------------------------------------------------ plans side by side


def files(folder: Path) -> dict[str, Path]:
    """Where a run folder keeps what is rendered: recipe, sft, rl."""
    run = RunFolder(folder)
    return {"recipe": run.recipe, "sft": run.sft_config, "rl": run.rl_config}


def save(rendered: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Write what was rendered, laid out as in a run folder."""
    for name, path in files(folder).items():
        write_text(path, yaml.safe_dump(rendered[name], sort_keys=False))


def compare(rendered: Mapping[str, dict[str, Any]], folder: Path) -> list[tuple[str, str, str]]:
    """(key, there, here) for each value that differs from those of a run folder or a saved plan.

    A file that is not there yet (verl's, in a run before its RL stage) is skipped.

    Raises:
        RecipeError: the folder is neither.
    """
    if not files(folder)["recipe"].exists():
        raise RecipeError(f"plan.against={folder} holds no recipe.yaml: give a run folder or a saved plan")
    found = []
    for name, path in files(folder).items():
        if path.exists():
            for key, there, here in differences(yaml.safe_load(path.read_text()), rendered[name]):
                if not key.startswith("ray_kwargs."):
                    shown = ["–" if value is None else str(value) for value in (there, here)]
                    found.append((f"{name}: {key}", shown[0], shown[1]))
    return found


def _difference_table(rendered: Mapping[str, dict[str, Any]], folder: Path) -> "Table":
    from rich import box
    from rich.table import Table

    found = compare(rendered, folder)
    shown = Table("key", str(folder), "this plan", title=f"{len(found)} values differ", box=box.SIMPLE)
    for row in found:
        shown.add_row(*row)
    return shown


def show_prompts(recipe: Recipe) -> None:
    """Print one complete prompt per task and split."""
    from launch.console import console

    found = examples(recipe)
    for where, text in prompts(recipe, found):
        console.print(f"[bold]prompt[/] of {where}")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for name in (*SPLITS, *recipe.other_sets):
        if name not in found and (name != "val" or recipe.data.listed().get(name)):
            key = f"data.files.{name}" if name in SPLITS else f"eval.sets.{name}.files"
            console.print(f"  prompts of {name}: known once {key} is there", markup=False)


@hydra_command
def main(config: DictConfig) -> None:
    """Plan one experiment, or all; exit code 1 when one of them cannot run."""
    from launch.console import console

    parsers.start()
    overrides = HydraConfig.get().overrides.task
    chosen = any(override.startswith("experiment=") for override in overrides)
    wrong = False
    for experiment in [config.experiment] if chosen else experiments():
        try:
            given = [*overrides, *([] if chosen else [f"experiment={experiment}"])]
            require_change(given)
            recipe, missing = compose_recipe(given)
            rendered = check(recipe)
            console.print(plan_table(recipe, missing))
            show_prompts(recipe)
            if recipe.plan.against:
                console.print(_difference_table(rendered, Path(recipe.plan.against)))
            if recipe.plan.save:
                folder = Path(recipe.plan.save) if chosen else Path(recipe.plan.save) / experiment
                save(rendered, folder)
                console.print(f"  rendered configurations: {folder}")
        except (UserError, OSError) as error:
            wrong = True
            console.print(f"[bold]{experiment}[/] cannot run")
            explain(error)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Make a function a command of Hydra's grammar: `python -m launch.<command> key=value ...` over `recipes/`."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from data_tools.cli import guarded
from launch.cluster.launchers import register
from launch.compose import read_recipe, require_change
from launch.overrides import hydra_message, quoted
from launch.recipe import RECIPES, Recipe, RecipeError
from launch.run import Run, finished, run_of, stage
from launch.stages import STAGES, needs

Command = Callable[[], None]
_GOES_ON = "; the same command goes on"


def command(
    name: str, check: Callable[[Run], object] | None = None, before: Callable[[Run], object] = lambda run: None
) -> Callable[[Callable[[Run], None]], Command]:
    """Make `function(run)` the command of a stage: called once its needs are met, unless it is done already.

    Args:
        check: refuses a run before anything is written; it raises UserError.
        before: called first, whether the stage is done or not.
    """

    def decorate(function: Callable[[Run], None]) -> Command:
        @wraps(function)
        def work(config: DictConfig) -> None:
            run = run_of(read_recipe(config), HydraConfig.get().overrides.task)
            if not STAGES[name].recorded:
                return function(run)
            require_change(run.given)
            run.require(*needs(name, run.recipe))
            before(run)
            if check and not finished(run, name):
                check(run)
            with stage(run, name) as needed:
                if needed:
                    function(run)

        return hydra_command(work, stages=[name])

    return decorate


def recipe_command(function: Callable[[Recipe], None]) -> Command:
    """Make `function(recipe)` a command that is not a stage."""

    @wraps(function)
    def work(config: DictConfig) -> None:
        function(read_recipe(config))

    return hydra_command(work)


def composing_command(function: Callable[[], None]) -> Command:
    """Make a function that composes recipes from `sys.argv` by itself a command; options such as --help are Hydra's."""

    @wraps(function)
    def main() -> None:
        if any(argument.startswith("-") for argument in sys.argv[1:]):
            return hydra_command(_takes_keys)()
        sys.exit(guarded(function))

    return main


def _takes_keys(_: DictConfig) -> None:
    raise RecipeError("this command takes key=value, and of Hydra's options --help, --cfg and --info alone")


def hydra_command(function: Callable[[DictConfig], int | None], stages: Sequence[str] = ()) -> Command:
    """Make `function(config)`, which gets the composed configuration unchecked, a command.

    Args:
        stages: what `-m` runs at each point, one after the other; the launcher of launch/cluster reads it.
    """
    codes: list[int] = []

    @wraps(function)
    def task(config: DictConfig) -> None:
        GlobalHydra.instance().clear()  # the engines' own Hydra trees are composed later on
        codes.append(guarded(lambda: function(config), _GOES_ON if stages else ""))

    task.stages, task.codes = stages, codes  # type: ignore[attr-defined]  # a function takes any attribute
    program = hydra.main(version_base="1.3", config_path=str(RECIPES), config_name="config")(task)

    def composed() -> int:
        try:
            program()
        except HydraException as error:
            raise RecipeError(hydra_message(error)) from error
        return max(codes, default=0)

    @wraps(function)
    def main() -> None:
        register()
        sys.argv[1:] = quoted(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors, and exits, by itself
        sys.exit(guarded(composed, _GOES_ON if stages else ""))

    return main

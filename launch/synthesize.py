"""Make reasoning chains for SFT: a large model writes them, filters keep the valid ones (docs/synthesis.md).

python -m launch.synthesize experiment=camreasoner synthesis=camreasoner synthesis.samples=train.jsonl \\
    synthesis.media_root=~/camerabench synthesis.out=chains synthesis.endpoint.url=http://node1:8000/v1

The experiment gives the media budget of the clips, and the cluster that `synthesis.serve_commands=true` divides among
the servers. The same command resumes where it was interrupted.
"""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data_tools.synthesis.settings import Settings
from launch.command import hydra_command
from launch.compose import read_partly
from launch.console import console
from launch.errors import LaunchError
from launch.planning.servers import serve_commands
from launch.recipe import Recipe
from launch.run import run_of


def settings_of(recipe: Recipe, given: list[str]) -> Settings:
    """The settings of the recipe, with its media budget where clips are to be normalised.

    Args:
        given: overrides of the command line.

    Raises:
        LaunchError: no synthesis is chosen, or no study that the clips are made for.
    """
    settings = recipe.synthesis
    if settings is None:
        raise LaunchError("choose a recipe of recipes/synthesis: synthesis=demo needs no model")
    if not settings.normalise:
        return settings
    if not any(override.startswith(("experiment=", "media=")) for override in given):
        raise LaunchError("name the study in whose media budget the clips are shown: experiment=camreasoner, say")
    if recipe.media.as_images:
        raise LaunchError("media.as_images: a generator is shown clips as videos: name another media=…")
    return settings.model_copy(
        update={"budget": recipe.budget, "stills": recipe.stills_of(recipe.media), "store": run_of(recipe).store}
    )


@hydra_command
def main(config: DictConfig) -> None:
    from data_tools.synthesis.demo import with_local_server
    from data_tools.synthesis.run import make_chains
    from launch.engines.ray.map import RayMap

    recipe, _ = read_partly(config)  # without the study's own label files: chains are made before there are any
    settings = settings_of(recipe, list(HydraConfig.get().overrides.task))
    if settings.serve_commands:
        for line in serve_commands(recipe, settings):
            console.print(line, markup=False, soft_wrap=True)
        return
    each = RayMap(settings.ray or "local", settings.workers)
    with with_local_server(settings, lambda text: console.print(f"  {text}", markup=False)) as settings:
        make_chains(settings, console, each)


if __name__ == "__main__":
    main()

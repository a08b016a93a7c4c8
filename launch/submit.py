"""Run a stage on a Ray cluster as a job that outlives whoever started it.

python -m launch.submit rl submit.address=http://head:8265 experiment=camreasoner runs=/shared/runs ...

`launch.jobs` shows and ends jobs. A job carries the code and the recipes, nothing else: weights, clips and runs lie on
a file system that all nodes share, and packages are those of the nodes (docs/cluster.md), compared when the run starts.
Everybody who reaches the cluster can read a job's description, so no secret goes there: the nodes have them in their
own environment.
"""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data_tools.cli import explain
from launch.cluster.jobs import client, follow_job, submit
from launch.command import hydra_command
from launch.compose import read_recipe
from launch.recipe import RecipeError
from launch.stages import STAGES


def start(stage: str, config: DictConfig) -> int:
    """Submit a stage, and follow it; exit code 1 when the job failed."""
    settings = read_recipe(config).submit
    given = [one for one in HydraConfig.get().overrides.task if not one.startswith("submit.")]
    job = submit(stage, given, settings.address, settings.python)
    return int(settings.follow and not follow_job(client(settings.address), job, settings.address))


def main() -> None:
    stage = sys.argv[1] if len(sys.argv) > 1 else ""
    if stage in STAGES:
        del sys.argv[1]
    elif not stage.startswith("-"):
        explain(RecipeError(f"name a stage first, e.g. `python -m launch.submit rl key=value`: {', '.join(STAGES)}"))
        sys.exit(1)
    hydra_command(lambda config: start(stage, config))()


if __name__ == "__main__":
    main()

"""A Slurm script that starts a Ray cluster on the nodes of an allocation and submits stages to it:

python -m launch.slurm experiment=camreasoner cluster=ray_cluster cluster.nodes=4 runs=/shared/runs ... > train.sbatch
sbatch --partition=... --time=... train.sbatch

The script ends with its last stage, and the cluster with it. Sent again, it resumes from the last checkpoint. With
names of stages behind it only these run: `sbatch --nodes=1 train.sbatch data model sft` holds no nodes that wait.
"""

import shlex
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from launch.cluster.jobs import entrypoint
from launch.command import hydra_command
from launch.compose import read_recipe
from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe
from launch.stages import STAGES, nodes


def render(recipe: Recipe, overrides: list[str], python: str = "") -> str:
    """The script.

    Raises:
        LaunchError: a recipe that takes no GPUs, or a path that would mean another folder on each node.
    """
    from data_tools.templates import template

    if recipe.cluster.device != "cuda":
        raise LaunchError("cluster.device=cpu: a Slurm script is for GPU nodes, e.g. cluster=ray_cluster")
    python = python or str(ROOT / ".venv" / "bin" / "python")
    stages = [name for name, stage in STAGES.items() if stage.applies(recipe)]
    wide = {name: count for name in stages if (count := nodes(name, recipe)) > 1}
    first = next((place for place, name in enumerate(stages) if nodes(name, recipe) == recipe.cluster.nodes), 0)
    given = [override for override in overrides if not override.startswith("cluster.address=")]
    script = template(Path(__file__).parent / "cluster" / "slurm.sh.j2", escape=False)  # what goes in is quoted
    return script.render(
        name=f"{recipe.experiment}-{recipe.name}",
        nodes=recipe.cluster.nodes,
        gpus=recipe.cluster.gpus_per_node,
        root=shlex.quote(str(ROOT)),
        ray=shlex.quote(str(Path(python).with_name("ray"))),
        python=shlex.quote(python),
        commands={stage: entrypoint(stage, given, recipe, python) for stage in stages},
        wide=wide,
        narrow=[f"{name} {count}" for name in stages if (count := nodes(name, recipe)) < recipe.cluster.nodes],
        before=stages[:first],
        fewer=max((wide.get(name, 1) for name in stages[:first]), default=1),
        after=stages[first:],
    )


@hydra_command
def main(config: DictConfig) -> None:
    sys.stdout.write(render(read_recipe(config), list(HydraConfig.get().overrides.task)) + "\n")


if __name__ == "__main__":
    main()

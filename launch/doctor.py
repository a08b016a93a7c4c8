"""Is this machine ready? One page of checks for a recipe, each with its remedy.

python -m launch.doctor experiment=camreasoner cluster=node_8gpu

Nothing is changed, and nobody is asked over the network but whom the recipe names: the hub for a model of the hub, a
judge behind an endpoint, a Ray cluster. Ends with 1 where something is wrong.
"""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from launch.command import hydra_command
from launch.compose import read_partly
from launch.engines.ray.health import ray
from launch.health import gpus, machine, network, storage
from launch.health.finding import Finding
from launch.recipe import Recipe

if TYPE_CHECKING:
    from rich.table import Table

CHECKS: tuple[Callable[[Recipe], Finding], ...] = (
    machine.packages, machine.environment,
    gpus.driver, gpus.gpus, gpus.links, gpus.all_reduce,
    machine.busy, machine.memory, machine.shared_memory, machine.limits, machine.compilers, machine.nvcc,
    storage.run_disk, machine.cache, storage.media, storage.hub,
    network.ports, network.judge, ray,
)  # fmt: skip
COLOURS = {"ok": "green", "doubtful": "yellow", "wrong": "bold red", "not needed": "dim"}


def findings(recipe: Recipe) -> Iterator[Finding]:
    """What each check finds, as it is found."""
    return (check(recipe) for check in CHECKS)


def page(recipe: Recipe, found: list[Finding]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    where = f"{recipe.cluster.nodes} node(s) x {recipe.cluster.gpus_per_node}, {recipe.cluster.device}"
    shown = Table("check", "", "seen", title=f"{recipe.experiment}: {where}", title_justify="left", box=box.SIMPLE)
    for name, state, seen, remedy in found:
        words = Text(seen)  # rich would interpret markup in a string
        if remedy:
            words.append(f"\n→ {remedy}", style="bold")
        shown.add_row(name, f"[{COLOURS[state]}]{state}[/]", words)
    return shown


@hydra_command
def main(config: DictConfig) -> None:
    from launch.console import console

    recipe, _ = read_partly(config)
    with console.status("looking"):
        found = list(findings(recipe))
    console.print(page(recipe, found))
    counts = {state: sum(one.state == state for one in found) for state in ("wrong", "doubtful")}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "all is well")
    if counts["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()

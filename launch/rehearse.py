"""Rehearse an experiment: every stage of it, in small, on this machine, before GPUs are used; or on the GPUs.

python -m launch.rehearse experiment=camreasoner        (camreasoner_authors, videop2r, videochat_r1, one of your own)
python -m launch.rehearse experiment=camreasoner cluster=node_8gpu

The layer recipes/rehearsal/<experiment>.yaml (own.yaml for an experiment of your own) shrinks the recipe, and where
cluster= has GPUs gpus.yaml is laid over it; all else is as the real run has it. The three studies are rehearsed on
files of their published forms, made of rendered clips; an experiment of your own on some of its own samples. The run
lies in runs/rehearsal/<experiment>; an earlier one is replaced.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_tools.cli import UsageError
from data_tools.files import whole_folder
from launch.cluster.launchers import run_stage
from launch.command import composing_command
from launch.compose import compose_complete, compose_config, group_files
from launch.console import console
from launch.errors import LaunchError
from launch.overrides import quoted
from launch.recipe import Recipe
from launch.run import Run, owned, run_of
from launch.samples.labels import label_files
from launch.stages import STAGES

JUDGE = "stand-in"  # the model's name at the local server


def writers() -> dict[str, Callable[[Path, int], None]]:
    """What makes the files of each study."""
    from data_tools.rehearsal import camreasoner, videochat_r1, videop2r

    return {
        "camreasoner": camreasoner.write,
        "camreasoner_authors": camreasoner.write,
        "videop2r": videop2r.write,
        "videochat_r1": videochat_r1.write,
    }


def experiment_of(arguments: Sequence[str]) -> str:
    """The experiment's own name; other keys may be of what the shrinking layer brings, such as a published set."""
    return str(compose_config([one for one in arguments if one.startswith("experiment=")]).experiment)


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The command line of a stage: the user's, the shrinking layer, and the name of the run.

    The layer is laid under `+ablation=`, whose row may have no use for a part of it. Where the recipe asks a judge and
    the user names none, the judge's model is the local server's.

    Raises:
        LaunchError: an experiment that is small already.
    """
    experiment = experiment_of(arguments)
    if experiment.startswith("demo"):
        raise LaunchError(f"experiment={experiment} runs on this machine as it is: make demo EXPERIMENT={experiment}")
    layer = experiment if experiment in group_files("rehearsal") else "own"
    name = [] if any(one.startswith("name=") for one in arguments) else [f"name={experiment}"]
    rows = [one for one in arguments if one.startswith("+ablation=")]
    others = [one for one in arguments if one not in rows]
    small = compose_config([*others, *name, f"+rehearsal={layer}", *rows])
    layers = f"[{layer},gpus]" if small.cluster.device == "cuda" else layer  # by cluster=: the layer itself has none
    judged = small.judge.name == "endpoint" and not _names_judge(arguments)
    stand_in = [f"judge.model={JUDGE}"] if judged else []
    return [*others, *name, f"+rehearsal={layers}", *rows, *stand_in]


def _names_judge(arguments: Sequence[str]) -> bool:
    return any(one.startswith("judge.") for one in arguments)


def files(run: Run, experiment: str, arguments: Sequence[str]) -> list[str]:
    """Make the files of the rehearsal; the overrides that name them, where the layer does not."""
    folder, seed = run.paths.published, run.recipe.seed
    if write := writers().get(experiment):
        with whole_folder(folder) as made:
            write(made, seed)
        return []
    from data_tools.rehearsal import own

    found = own.write(folder, label_files(compose_complete(arguments)), seed)
    return [f"data.files.{split}={path}" for split, path in found.items()]


@contextmanager
def judge(recipe: Recipe, arguments: Sequence[str]) -> Iterator[list[str]]:
    """A local server in place of the recipe's judge, unless the user names one; the overrides that name its address."""
    if recipe.judge.name != "endpoint" or _names_judge(arguments):
        yield []
        return
    from data_tools.rehearsal.judge import verdict
    from data_tools.synthesis.local_server import LocalEndpoint

    with LocalEndpoint(verdict) as server:
        yield [f"judge.url={server.url}"]


def run_stages(recipe: Recipe, overrides: Sequence[str]) -> dict[str, float]:
    """Run the stages' own commands one after the other; the seconds that each took.

    Raises:
        LaunchError: a stage failed.
    """
    # Batches are so small that threads of one process would wait for each other.
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    seconds = {}
    for stage in (name for name, stage in STAGES.items() if stage.applies(recipe)):
        start = time.monotonic()
        if not run_stage(stage, overrides, env):
            raise LaunchError(f"the rehearsal ends in stage {stage}: the message above says why")
        seconds[stage] = time.monotonic() - start
    return seconds


def paper_tables(run: Run, experiment: str) -> list[str]:
    """Fill the tables of the study's paper whose benchmarks were asked, and say which were not; their names."""
    from evaluation.papers import build
    from evaluation.printed import papers
    from evaluation.table import write_tables

    tables = {}
    for name in (name for name, spec in papers().items() if spec["experiment"] == experiment):
        try:
            tables[name] = build(name, {str(run.folder): run.folder})[0]
        except UsageError as error:  # the user left out its sets
            console.print(f"  without {name}: {error}", markup=False)
    write_tables(run.paths.report / "tables", list(tables.values()))
    return list(tables)


@composing_command
def main() -> None:
    arguments = quoted(sys.argv[1:])
    overrides = overrides_of(arguments)
    recipe = compose_complete(overrides)
    run, experiment = run_of(recipe), experiment_of(arguments)
    with owned(run.paths.lock, "rehearsal"):
        shutil.rmtree(run.folder)
    console.print(f"[bold]rehearsal[/] of {experiment} → {run.folder}")
    start = time.monotonic()
    overrides += files(run, experiment, arguments)
    seconds = {"files": time.monotonic() - start}
    with judge(recipe, arguments) as judged:
        seconds |= run_stages(recipe, [*overrides, *judged])
    if tables := paper_tables(run, experiment):
        console.print(f"  tables of the paper in {run.paths.report / 'tables'}: {', '.join(tables)}", markup=False)
    console.print("\n".join(f"  {name:10} {taken:5.0f} s" for name, taken in seconds.items()), markup=False)
    console.print(f"[green]rehearsal done[/] in {sum(seconds.values()):.0f} s: {run.paths.report / 'index.html'}")


if __name__ == "__main__":
    main()

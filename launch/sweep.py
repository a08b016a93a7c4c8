"""Run one experiment at several values, each point in a run folder of its own, and collect what came of them.

python -m launch.rl -m experiment=demo reward.format_weight=0.0,0.1,0.3,0.5 seed=0,1,2      the RL stage alone
python -m launch.sweep experiment=demo reward.format_weight=0.0,0.1                         and merge and evaluation

Points that agree in the stages before share them: these are done once, in a base run, and linked into each point
(`shared.json` names the base). A point that fails does not end the sweep; it is listed with its command. With
`sweep.address=http://head:8265` each point is a Ray job of its own, `sweep.at_once` of them side by side.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.errors import LaunchError, explain, known_errors
from launch.recipe import ROOT, Recipe, RecipeError
from launch.run import STAGES, Run, console, run_of

if TYPE_CHECKING:
    from rich.table import Table

POLL_SECONDS = 5.0
SHARED = ("data", "model", "sft")
_DONE = "done"


@dataclass
class Point:
    """One combination of the swept values."""

    values: dict[str, str]
    overrides: list[str]
    run: Run
    base: Run
    base_overrides: list[str]
    state: str = "waiting"
    command: list[str] = field(default_factory=list)


# ------------------------------------------------------------------ points


def points(overrides: Sequence[str], stages: Sequence[str]) -> list[Point]:
    """All combinations of the swept overrides (Hydra's syntax: `key=a,b`, `key=range(0,3)`), in the order given.

    Raises:
        RecipeError: no sweep, a wrong override or recipe, a swept name.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise RecipeError(str(error)) from error
    swept = {o.get_key_element(): list(o.sweep_string_iterator()) for o in parsed if o.is_sweep_override()}
    fixed = [o.input_line for o in parsed if not o.is_sweep_override()]
    if not swept:
        raise RecipeError("nothing to sweep: give a key several values, e.g. reward.format_weight=0.0,0.1")
    if "name" in swept:
        raise RecipeError("name is made from the swept values: sweep another key")
    first = _compose(fixed)
    # What the shared stages hang on makes the base run; the rest only the point.
    before, values_of = _upstream(first, stages), [f"{key}={value}" for key in swept for value in swept[key]]
    decides = {one for one in values_of if _upstream(_compose([*fixed, one]), stages) != before}
    found = []
    for combination in product(*swept.values()):
        values = dict(zip(swept, combination))
        chosen = [f"{key}={value}" for key, value in values.items()]
        upstream = [one for one in chosen if one in decides]
        base_name = _name(first.name, upstream)
        overrides_of_point = [*fixed, *chosen, f"name={_name(first.name, chosen)}"]
        base_overrides = [*fixed, *upstream, f"name={base_name}"]
        found.append(
            Point(
                values,
                overrides_of_point,
                run_of(_compose(overrides_of_point)),
                run_of(_compose(base_overrides)),
                base_overrides,
            )
        )
    return found


def _compose(overrides: Sequence[str]) -> Recipe:
    from launch.plan import compose_recipe

    recipe, yours = compose_recipe(overrides)
    if yours:
        raise RecipeError("the recipe leaves these to you: " + ", ".join(f"{key}=..." for key in yours))
    return recipe


def _shared(stages: Sequence[str]) -> list[str]:
    """Stages before the first of the sweep's."""
    return [stage for stage in SHARED if STAGES.index(stage) < STAGES.index(stages[0])]


def _upstream(recipe: Recipe, stages: Sequence[str]) -> dict[str, Any]:
    return {stage: run_of(recipe).settings(stage) for stage in _shared(stages)}


def _name(base: str, chosen: Sequence[str]) -> str:
    """Folder name of a point: `main-format_weight0.1-seed2`."""
    parts = [one.split("=", 1) for one in chosen]
    slugs = [f"{key.lstrip('+').rsplit('.', 1)[-1]}{value}" for key, value in parts]
    return "-".join([base, *("".join(c if c.isalnum() or c in "._" else "_" for c in slug) for slug in slugs)])


def needed(recipe: Recipe, stages: Sequence[str]) -> list[str]:
    """Shared stages that this recipe needs: one without SFT starts RL from the base model."""
    return [stage for stage in _shared(stages) if stage != "sft" or recipe.rl.start_epoch > 0]


def link(point: Run, base: Run, stages: Sequence[str]) -> None:
    """Give a point the stages of its base run, by links that `shared.json` names.

    Raises:
        LaunchError: the point has such a stage of its own, or the base's was done with other settings.
    """
    (point.folder / "stages").mkdir(parents=True, exist_ok=True)
    for stage in stages:
        record = base.record(stage)
        if record is None:
            raise LaunchError(f"stage {stage!r} of {base.folder} is not done, so {point.folder} cannot share it")
        if record["settings"] != point.settings(stage):
            raise LaunchError(f"stage {stage!r} of {base.folder} has other settings than {point.folder} asks for")
        for name in (stage, f"stages/{stage}.json"):
            link, target = point.folder / name, base.folder / name
            if not link.is_symlink() and link.exists():
                raise LaunchError(f"{link} is the point's own: choose another name=... or remove {point.folder}")
            if target.exists():  # a model that is downloaded has no folder here
                link.unlink(missing_ok=True)
                link.symlink_to(target)
    shared = {"base": str(base.folder), "stages": list(stages)}
    (point.folder / "shared.json").write_text(json.dumps(shared, indent=1))


# ------------------------------------------------------------------ running


def run(overrides: Sequence[str], stages: Sequence[str], address: str | None = None, at_once: int = 1) -> list[Point]:
    """Run a sweep and give its points with their states; what is done already is not done again.

    Raises:
        RecipeError, LaunchError: before anything runs.
    """
    found = points(overrides, stages)
    console.print(f"{len(found)} points, stages {', '.join(stages)}")
    broken: dict[Path, str] = {}
    for point in {point.base.folder: point for point in found}.values():
        for stage in needed(point.base.recipe, stages):
            if not _run_stage(stage, point.base_overrides):
                broken[point.base.folder] = stage
                break
    ready = []
    for point in found:
        if point.base.folder in broken:
            point.state = f"{broken[point.base.folder]} of its base failed"
            point.command = _command(broken[point.base.folder], point.base_overrides)
        elif point.run.folder != point.base.folder:
            link(point.run, point.base, needed(point.run.recipe, stages))
            ready.append(point)
        else:
            ready.append(point)
    if address:
        _run_jobs(ready, stages, address, at_once)
    else:
        for point in ready:
            console.rule(point.run.recipe.name)
            _run_here(point, stages)
    return found


def _run_here(point: Point, stages: Sequence[str]) -> None:
    for stage in stages:
        if not _run_stage(stage, point.overrides):
            point.state, point.command = f"{stage} failed", _command(stage, point.overrides)
            return
    point.state = _DONE


def _command(stage: str, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"launch.{stage}", *overrides]


def _run_stage(stage: str, overrides: Sequence[str]) -> bool:
    return subprocess.run(_command(stage, overrides), cwd=ROOT).returncode == 0


def _run_jobs(waiting: Sequence[Point], stages: Sequence[str], address: str, at_once: int) -> None:
    """One Ray job per point and stage, `at_once` points side by side."""
    from launch.submit import client, submit

    queue, running = list(waiting), {}
    jobs = client(address)
    while queue or running:
        while queue and len(running) < at_once:
            point = queue.pop(0)
            running[submit(stages[0], point.overrides, address)] = (point, 0)
        time.sleep(POLL_SECONDS)
        for job, (point, number) in list(running.items()):
            state = jobs.get_job_status(job)
            if not state.is_terminal():
                continue
            del running[job]
            if state.value != "SUCCEEDED":
                point.state, point.command = (
                    f"{stages[number]} {state.value}",
                    _command(stages[number], point.overrides),
                )
            elif number + 1 == len(stages):
                point.state = _DONE
            else:
                running[submit(stages[number + 1], point.overrides, address)] = (point, number + 1)


# ------------------------------------------------------------------ what came of it


LAST_STEPS = 5


def collect(point: Point) -> dict[str, Any]:
    """Metrics of a point: means of the last steps of RL, and the held-out scores where it was evaluated."""
    row: dict[str, Any] = {"name": point.run.recipe.name, **point.values, "state": point.state}
    metrics = point.run.folder / "rl" / "metrics.jsonl"
    if metrics.exists():
        data = [json.loads(line)["data"] for line in metrics.read_text().splitlines()][-LAST_STEPS:]
        for name in ("accuracy", "format"):
            known = [step[f"reward/{name}"] for step in data if f"reward/{name}" in step]
            row[f"reward/{name}"] = sum(known) / len(known) if known else None
    scores = point.run.folder / "eval" / "rl" / "scores.json"
    if scores.exists():
        told = json.loads(scores.read_text())
        row["balanced_accuracy"], row["interval"] = told.get("balanced_accuracy"), told.get("balanced_accuracy_ci")
        row["format_rate"] = told.get("format_rate")
    return row


def counterfactual(found: Sequence[Point]) -> list[dict[str, float]]:
    """What each swept lambda would have changed on the rollouts of the first point that has any (rewards.replay)."""
    from rewards.counterfactual import lambda_counterfactual

    lambdas = sorted({float(point.values["reward.format_weight"]) for point in found})
    for point in found:
        files = sorted((point.run.folder / "rl" / "rollouts").glob("*.jsonl"), key=lambda path: int(path.stem))
        records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        if records:
            return lambda_counterfactual(records, lambdas)
    return []


def tables(found: Sequence[Point]) -> "Iterator[Table]":
    """The points side by side, and the lambda counterfactual where lambda was swept."""
    from rich.table import Table

    rows = [collect(point) for point in found]
    keys = list(found[0].values)
    shown = Table("point", *keys, "accuracy", "format", "balanced accuracy, held out", "state", title="Sweep")
    for row in rows:
        held_out = _number(row.get("balanced_accuracy"))
        if row.get("interval"):
            held_out += "  [{:.3f}, {:.3f}]".format(*row["interval"])
        rewards = [_number(row.get(f"reward/{name}")) for name in ("accuracy", "format")]
        shown.add_row(row["name"], *(row[key] for key in keys), *rewards, held_out, row["state"])
    shown.caption = (
        f"accuracy, format: mean reward of the last {LAST_STEPS} RL steps. Interval: 95 % bootstrap over clips."
    )
    yield shown
    if "reward.format_weight" in keys and (told := counterfactual(found)):
        beside = Table(*told[0], title="The same lambdas on one set of rollouts (first order, off-policy)")
        for row in told:
            beside.add_row(*(f"{value:.3g}" for value in row.values()))
        yield beside


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def finish(found: Sequence[Point]) -> int:
    """Show and write the table; exit code 1 when a point failed."""
    first = found[0].run.folder.parent
    rows = [collect(point) for point in found]
    path = first / f"sweep-{'-'.join(key.rsplit('.', 1)[-1] for key in found[0].values)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))
    for table in tables(found):
        console.print(table)
    console.print(f"  {path}")
    failed = [point for point in found if point.state != _DONE]
    for point in failed:
        again = f"{point.run.recipe.name}: {point.state}; again: {shlex.join(point.command)}"
        console.print(again, markup=False, soft_wrap=True)
    return int(bool(failed))


def main(arguments: Sequence[str], stages: Sequence[str] = ("rl", "merge", "evaluate")) -> int:
    """Split the sweep's own settings from the overrides, run and show."""
    own: Mapping[str, str] = dict(a.split("=", 1) for a in arguments if a.startswith("sweep."))
    known = {"sweep.stages", "sweep.address", "sweep.at_once"}
    try:
        if unknown := own.keys() - known:
            raise RecipeError(f"{', '.join(sorted(unknown))}: a sweep has {', '.join(sorted(known))}")
        stages = own["sweep.stages"].split(",") if "sweep.stages" in own else list(stages)
        if not stages or any(stage not in STAGES for stage in stages):
            raise RecipeError(f"sweep.stages={','.join(stages)}: choose of {', '.join(STAGES)}")
        at_once = int(own.get("sweep.at_once", "1"))
        found = run([a for a in arguments if a not in _texts(own)], stages, own.get("sweep.address"), at_once)
        return finish(found)
    except known_errors() as error:
        explain(error)
        return 1


def _texts(own: Mapping[str, str]) -> set[str]:
    return {f"{key}={value}" for key, value in own.items()}


if __name__ == "__main__":
    if "--help" in sys.argv[1:]:
        sys.stdout.write(__doc__)
    else:
        sys.exit(main(sys.argv[1:]))

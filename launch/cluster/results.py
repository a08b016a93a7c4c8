"""What came of a sweep: the points side by side in a table and a JSON file."""

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data_tools.files import whole_lines, write_json
from launch.cluster.sweep import DONE, Point
from launch.console import console

if TYPE_CHECKING:
    from rich.table import Table
LAST_STEPS = 5
REWARDS = ("accuracy", "format", "fidelity")


def collect(point: Point) -> dict[str, Any]:
    """Metrics of a point: means of the last steps of RL, and the held-out scores where it was evaluated."""
    paths = point.run.paths
    row: dict[str, Any] = {"name": point.run.recipe.name, **point.values, "state": point.state}
    steps = [json.loads(line)["data"] for line in whole_lines(paths.rl_metrics)][-LAST_STEPS:]
    if steps:
        for name in REWARDS:
            values = [step[f"reward/{name}"] for step in steps if f"reward/{name}" in step]
            row[f"reward/{name}"] = sum(values) / len(values) if values else None
    path = paths.scores(next(iter(point.run.recipe.eval.sets)), "rl")
    if path.exists():
        scores = json.loads(path.read_text())
        row["balanced_accuracy"], row["interval"] = scores.get("balanced_accuracy"), scores.get("balanced_accuracy_ci")
        row["format_rate"] = scores.get("format_rate")
        row["pair_accuracy"], row["pair_interval"] = scores.get("pair_accuracy"), scores.get("pair_accuracy_ci")
    return row


def objective(point: Point) -> float | None:
    """What Hydra's optimising sweepers maximise: held-out balanced accuracy, else the reward's accuracy."""
    row = collect(point)
    return row.get("balanced_accuracy", row.get("reward/accuracy")) if point.state == DONE else None


def counterfactual(points: Sequence[Point]) -> list[dict[str, float]]:
    """What each swept lambda would have changed on the rollouts of the first point that has any."""
    from evaluation.rollouts.counterfactual import lambda_counterfactual
    from evaluation.rollouts.records import read_rollouts

    lambdas = sorted({float(point.values["reward.format_weight"]) for point in points})
    for point in points:
        if records := read_rollouts(point.run.paths.rollouts):
            return lambda_counterfactual([r.group for r in records], [r.components for r in records], lambdas)
    return []


def tables(points: Sequence[Point]) -> "Iterator[Table]":
    """The points side by side, and the lambda counterfactual where lambda was swept."""
    from rich.table import Table

    keys, rows = list(points[0].values), list(map(collect, points))
    shown = [
        name for name in REWARDS if name != "fidelity" or any(row.get("reward/fidelity") is not None for row in rows)
    ]
    held_out = {"balanced_accuracy": "interval", "pair_accuracy": "pair_interval"}
    titles = [f"{name.replace('_', ' ')}, held out" for name in held_out]
    table = Table("point", *keys, *shown, *titles, "state", title="Sweep")
    for row in rows:
        scores = [_number(row.get(name), row.get(interval)) for name, interval in held_out.items()]
        rewards = [_number(row.get(f"reward/{name}")) for name in shown]
        table.add_row(row["name"], *(row[key] for key in keys), *rewards, *scores, row["state"])
    table.caption = (
        f"{', '.join(shown)}: mean reward of the last {LAST_STEPS} RL steps. Interval: 95 % bootstrap over clips."
    )
    yield table
    if "reward.format_weight" in keys and (changes := counterfactual(points)):
        beside = Table(*changes[0], title="The same lambdas on one set of rollouts (first order, off-policy)")
        for values in changes:
            beside.add_row(*(f"{value:.3g}" for value in values.values()))
        yield beside


def _number(value: float | None, interval: Sequence[float] | None = None) -> str:
    shown = "–" if value is None else f"{value:.3f}"
    return f"{shown}  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else shown


def show(points: Sequence[Point]) -> list[Point]:
    """Show and write the table, name the command that repeats each failed point, and give those points."""
    folder = points[0].run.folder.parent
    path = folder / f"sweep-{'-'.join(key.rsplit('.', 1)[-1] for key in points[0].values)}.json"
    write_json(path, [collect(point) for point in points])
    for table in tables(points):
        console.print(table)
    console.print(f"  {path}")
    failed = [point for point in points if point.state != DONE]
    for point in failed:
        again = f"{point.run.recipe.name}: {point.state}; again: {shlex.join(point.command)}"
        console.print(again, markup=False, soft_wrap=True)
    return failed

"""Tables and plots of a replay."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.rollouts.counterfactual import NOISE
from evaluation.rollouts.records import Rollout

if TYPE_CHECKING:
    from data_tools.console import Console

SHOWN = 10  # of the most changed rollouts, and of the reasons why some cannot be scored
Components = Sequence[Mapping[str, float]]
_SWEEP = {
    "matters": "groups where it matters",
    "collapsed": "groups without advantage",
    "sign_flips": "responses whose sign flips",
    "format_share": "weight of format",
}
_ESTIMATORS = {
    "no_signal": "advantage 0",
    "mean_size": "mean size of the others",
    "sign_flips": "sign flips",
    "correlation": "correlation",
}


def show_counts(counts: Mapping[str, float], console: "Console") -> None:
    from rich.table import Table

    table = Table("", "", title="Replay", show_header=False)
    for name, value in counts.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
    console.print(table)


def show_changes(
    records: Sequence[Rollout], components: Components, advantages: Sequence[float], console: "Console"
) -> None:
    """The rollouts whose score changed most."""
    from rich.table import Table

    rows = sorted(zip(records, components, advantages), key=lambda row: -abs(row[1]["score"] - row[0].score))
    changed = [row for row in rows[:SHOWN] if abs(row[1]["score"] - row[0].score) > NOISE]
    if not changed:
        return
    table = Table(title="Most changed")
    for column in ("rollout", "task", "score", "advantage", "response ends"):
        table.add_column(column, no_wrap=True)
    for record, found, advantage in changed:
        text = " ".join(record.response.split())
        scores = f"{record.score:.2f} → {found['score']:.2f}"
        signs = f"{record.advantage:+.2f} → {advantage:+.2f}"
        table.add_row(*map(_plain, (record.rollout, record.task, scores, signs, text[-24:])))
    console.print(table)


def show_estimators(rows: Sequence[Mapping[str, Any]], console: "Console") -> None:
    from rich.table import Table

    table = Table("advantage=", *_ESTIMATORS.values(), title="Estimators on these rollouts, against the recorded one")
    for row in rows:
        size, correlation = f"{row['mean_size']:.3f}", row["correlation"]
        shares = {name: f"{row[name]:.1%}" for name in ("no_signal", "sign_flips")}
        cells = shares | {"mean_size": size, "correlation": "–" if correlation is None else f"{correlation:.3f}"}
        table.add_row(row["advantage"], *(cells[name] for name in _ESTIMATORS))
    console.print(table)


def show_sweep(sweep: Sequence[Mapping[str, float]], console: "Console") -> None:
    from rich.table import Table

    table = Table("lambda", *_SWEEP.values(), title="Lambda counterfactual: against accuracy alone")
    for shares in sweep:
        table.add_row(f"{shares['lambda']:g}", *(f"{shares[name]:.1%}" for name in _SWEEP))
    console.print(table)
    console.print("First order and off-policy: the responses remain those that were sampled.")


def show_refused(refused: Sequence[tuple[str, str]], console: "Console") -> None:
    from rich.table import Table

    if not refused:
        return
    table = Table("rollouts", "why they could not be scored")
    for reason, count in Counter(reason for _, reason in refused).most_common(SHOWN):
        table.add_row(f"{count:,}", _plain(reason))
    console.print(table)


def _plain(text: Any) -> Any:
    from rich.text import Text

    return Text(str(text))  # a response may contain what rich takes for markup


def plot(
    records: Sequence[Rollout],
    components: Components,
    new_advantages: Sequence[float],
    sweep: Sequence[Mapping[str, float]],
    folder: Path,
) -> None:
    """replay.png: old against new scores and advantages. lambda.png: the counterfactual, if there is one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    scores, advantages = figure.subplots(1, 2)
    for axes, name, after in (
        (scores, "score", [component["score"] for component in components]),
        (advantages, "advantage", new_advantages),
    ):
        before = [getattr(record, name) for record in records]
        points = Counter((round(x, 3), round(y, 3)) for x, y in zip(before, after))
        axes.axline((0, 0), slope=1, color="0.8", zorder=0)
        sizes = [8 + 200 * count / max(points.values()) for count in points.values()]
        axes.scatter([x for x, _ in points], [y for _, y in points], sizes, alpha=0.6)
        axes.set(xlabel=f"recorded {name}", ylabel=f"new {name}", title=f"{name}, {len(before):,} rollouts")
    figure.savefig(folder / "replay.png", dpi=120)
    if not sweep:
        return

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in _SWEEP.items():
        axes.plot([row["lambda"] for row in sweep], [100 * row[name] for row in sweep], "o-", label=label)
    axes.set(xlabel="lambda", ylabel="%", title="Lambda counterfactual (first order, off-policy)", ylim=(-2, 102))
    axes.legend()
    figure.savefig(folder / "lambda.png", dpi=120)

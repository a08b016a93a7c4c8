"""Plots of the report. Every function takes plain numbers and gives a figure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.run_scores import NONE_STATED
from evaluation.runs import Model

# Okabe and Ito's palette, which readers with any colour vision can distinguish.
COLOURS = {"base": "#8a8a8a", "sft": "#0072b2", "rl": "#d55e00"}
TASKS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
FORMAT = "#0072b2"
INK = "#010203"  # placeholder of the page's text colour, see `svg`
SMOOTHED = 7  # points in the moving mean drawn over a noisy curve
STYLE = {
    "axes.edgecolor": INK,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is one
    "xtick.color": INK,
    "ytick.color": INK,
}


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an inline SVG element whose ink is the page's own text colour, so that it suits light and dark."""
    out = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    out = BytesIO()
    figure.savefig(out, format="png", dpi=150, facecolor="white")
    return out.getvalue()


def colours(models: Sequence[Model]) -> dict[str, str]:
    """Key of each model -> its colour: that of its stage, the next free one of the others where that is taken."""
    others = cycle(TASKS)
    taken: dict[str, str] = {}
    for model in models:
        if model.key not in taken:
            own = COLOURS.get(model.stage)
            taken[model.key] = own if own and own not in taken.values() else next(others)
    return taken


def intervals(models: Sequence[Model], colours: Mapping[str, str]) -> Figure | None:
    """Balanced accuracy of every model that has one (`balanced_accuracy`, `balanced_accuracy_ci`) with its interval."""
    drawn = [model for model in models if model.scores["balanced_accuracy"] is not None]
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 0.75 + 0.36 * len(drawn)))
        axes = figure.subplots()
        for y, model in enumerate(drawn):
            colour, bounds = colours[model.key], model.scores["balanced_accuracy_ci"]
            axes.plot(bounds, [y, y], color=colour, linewidth=3, solid_capstyle="round")
            axes.plot(model.scores["balanced_accuracy"], y, "o", color=colour, markersize=8, clip_on=False)
        axes.axvline(0.5, color=INK, linestyle="--", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(len(drawn) - 0.5, -0.5), xlabel="balanced accuracy, 95 % interval; dashed: chance")
        axes.set_yticks(range(len(drawn)), [model.name for model in drawn])
        axes.grid(visible=False, axis="y")
    return figure


def sft_curves(log: Sequence[Mapping[str, float]]) -> Figure | None:
    """Loss, gradient norm and learning rate over the steps of a Trainer's log."""
    return _panels(
        {
            "Loss": ("cross-entropy (nats/token)", [_curve(log, "loss", COLOURS["sft"])]),
            "Gradient norm": ("L2 norm", [_curve(log, "grad_norm", COLOURS["sft"])]),
            "Learning rate": ("learning rate", [_curve(log, "learning_rate", COLOURS["sft"])]),
        }
    )


def rl_curves(steps: Sequence[Mapping[str, float]]) -> Figure | None:
    """Rewards, lengths, EMA spread, rollout/actor agreement and entropy over RL steps; absent metrics are left out."""
    accuracy, ema, orange = "reward/accuracy", "ema/std", COLOURS["rl"]
    keys = {key for step in steps for key in step}
    tasks = sorted({key.rsplit("/", 1)[1] for key in keys if key.startswith((f"{accuracy}/", f"{ema}/"))})
    colours = dict(zip(tasks, cycle(TASKS)))

    def curve(key: str, colour: str = orange, label: str = "") -> Curve:
        return _curve(steps, key, colour, label, smooth=True)

    def by_task(metric: str) -> list[Curve]:
        return [curve(f"{metric}/{task}", colours[task], task) for task in tasks]

    def named(prefix: str, *others: str) -> list[Curve]:
        """All metrics below a prefix by the rest of their name, and others by theirs."""
        found = sorted(key for key in keys if key.startswith(prefix)) + [key for key in others if key in keys]
        palette = cycle((*TASKS, FORMAT, orange))
        return [curve(key, next(palette), key.removeprefix(prefix).replace("_", " ")) for key in found]

    return _panels(
        {
            "Accuracy reward": ("mean per step", [curve(accuracy, label="all"), *by_task(accuracy)]),
            "Overall and format reward": (
                "mean per step",
                [curve("reward/overall", label="overall"), curve("reward/format", FORMAT, "format")],
            ),
            "Fidelity of the observation": (
                "mean per step",
                [
                    curve("reward/fidelity", label="where the motion is known"),
                    curve("reward/motion_known", FORMAT, "motion known"),
                ],
            ),
            "Response length": ("tokens, mean per step", [curve("response_length/mean")]),
            "EMA of the reward's spread": ("standard deviation", by_task(ema)),
            "Rollout and actor probabilities": ("Pearson r", [curve("training/rollout_actor_probs_pearson_corr")]),
            "Entropy": ("nats/token", [curve("actor/entropy")]),
            "Perception and reasoning": (
                "reward, mean per step",
                [curve("reward/perception", FORMAT, "perception"), curve("reward/reasoning", label="reasoning")],
            ),
            "Collapsed groups": ("share of groups", named("groups/collapsed")),
            "Malformed responses, by reason": ("share of responses", named("response/malformed/")),
            "Cut, and thought against answer": (
                "share of responses",
                [curve("response/truncated", FORMAT, "cut"), curve("response/mismatch", label="mismatch")],
            ),
        }
    )


def held_out_curves(records: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, float]]) -> Figure | None:
    """The val split while RL trains: its measures with balanced accuracy's interval, and the training reward beside."""
    if not records:
        return None
    names = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "format": "well formed"}
    names |= {"fidelity": "observation fidelity"}
    palette = (COLOURS["rl"], *TASKS)
    curves = [_curve(records, name, colour, label) for (name, label), colour in zip(names.items(), palette)]
    reward = _curve(steps, "reward/overall", COLOURS["rl"], smooth=True)
    figure = _panels({"Val split": ("share of questions", curves), "Training reward": ("mean per step", [reward])})
    spans = [(record["step"], *record["ci"]) for record in records if record["ci"] and None not in record["ci"]]
    if figure and spans:
        figure.axes[0].vlines(*zip(*spans), color=COLOURS["rl"], alpha=0.4)
    return figure


def collapse_curves(steps: Sequence[Mapping[str, float]]) -> Figure | None:
    """Share of collapsed groups over RL steps: of the whole reward, and of each process where they are apart."""
    names = {"score": "whole reward", "perception": "perception", "reasoning": "reasoning", "both": "both processes"}
    drawn = [name for name in names if any(name in step for step in steps)]
    if not drawn:
        return None
    colours = dict(zip(names, (COLOURS["rl"], *TASKS)))
    curves = [_curve(steps, name, colours[name], names[name], smooth=True) for name in drawn]
    return _panels({"Collapsed groups": ("share of the step's groups", curves)})


def motion_matrices(matrices: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Figure | None:
    """Model name -> true motion -> stated motion -> count, as row shares in percent."""
    true = sorted({motion for matrix in matrices.values() for motion in matrix})
    if not true:
        return None
    named = {motion for matrix in matrices.values() for row in matrix.values() for motion in row} | set(true)
    stated = sorted(named - {NONE_STATED}) + [NONE_STATED]
    # From clear to blue, not from white: the page behind it may be dark.
    shade = LinearSegmentedColormap.from_list("shade", [(0, 0.45, 0.7, 0), (0, 0.45, 0.7, 0.75)])
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        width, height = 1.2 + 0.32 * len(stated) * len(matrices), 1.3 + 0.3 * len(true)
        figure = Figure(figsize=(width, height))
        for axes, (name, matrix) in zip(
            figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0], matrices.items()
        ):
            counts = np.array([[matrix.get(t, {}).get(s, 0) for s in stated] for t in true])
            shares = 100 * counts / counts.sum(axis=1, keepdims=True)
            axes.pcolormesh(shares, cmap=shade, vmin=0, vmax=100, edgecolors=INK + "20", linewidth=0.4)
            for y, x in zip(*np.nonzero(counts)):
                axes.text(x + 0.5, y + 0.5, f"{shares[y, x]:.0f}", ha="center", va="center", fontsize=7)
            axes.set(title=name, xlabel="motion stated in the observation", ylim=(len(true), 0))
            axes.set_xticks(np.arange(len(stated)) + 0.5, [s.replace("_", " ") for s in stated], rotation=90)
            axes.set_yticks(np.arange(len(true)) + 0.5, [t.replace("_", " ") for t in true])
            axes.tick_params(length=0)
        figure.axes[0].set_ylabel("true motion")
    return figure


@dataclass(frozen=True)
class Curve:
    """Values of one metric at the steps where it was logged."""

    steps: list[int]
    values: list[float]
    colour: str
    label: str
    smooth: bool

    def draw(self, axes: Axes) -> None:
        if not self.smooth or len(self.steps) < 3 * SMOOTHED:
            axes.plot(self.steps, self.values, color=self.colour, label=self.label, marker=".", linewidth=1.2)
            return
        half = SMOOTHED // 2
        means = np.convolve(self.values, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
        axes.plot(self.steps, self.values, color=self.colour, alpha=0.35, linewidth=0.8)
        axes.plot(self.steps[half:-half], means, color=self.colour, label=self.label, linewidth=1.8)


def _curve(
    records: Sequence[Mapping[str, Any]], key: str, colour: str, label: str = "", *, smooth: bool = False
) -> Curve:
    held = [record for record in records if record.get(key) is not None]
    return Curve([record["step"] for record in held], [record[key] for record in held], colour, label, smooth)


def _panels(panels: Mapping[str, tuple[str, Sequence[Curve]]]) -> Figure | None:
    """One panel per title with its y label and its curves over steps, three in a row at most; empty ones left out."""
    held = {title: (label, [curve for curve in curves if curve.steps]) for title, (label, curves) in panels.items()}
    held = {title: panel for title, panel in held.items() if panel[1]}
    if not held:
        return None
    columns = min(3, len(held))
    rows = -(-len(held) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(3.5 * columns, 5.0), 2.5 * rows))
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (title, (label, curves)) in zip(grid, held.items()):
            for curve in curves:
                curve.draw(axes)
            axes.set(title=title, xlabel="step", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if len(curves) > 1:
                axes.legend()
        for axes in figure.axes[len(held) :]:
            axes.remove()
    return figure

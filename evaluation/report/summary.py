"""report/summary.json: the numbers of a run, for machines."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from evaluation.report.load import Inputs, SetInputs, left_out
from evaluation.report.official import headline
from evaluation.runs import Model
from evaluation.table import Table

STRICT = (
    *("n", "n_clips", "accuracy", "format_rate", "balanced_accuracy", "binary_accuracy", "yes_recall", "no_recall"),
    *("constant_accuracy", "always_no_accuracy", "observation_fidelity", "pair_accuracy"),
)
PROCESS = {"observation suffices": "observation_suffices", "mismatch": "mismatch"}


def summary(inputs: Inputs, process: Sequence[Table | None]) -> dict[str, Any]:
    """`sets.<set>.<model>.<metric>` of all sets, whole scores of the first one, and what training and stages logged.

    Args:
        process: observation, thought and answer, of each set.
    """
    first, stages, rl_steps = inputs.sets[0], inputs.stages, inputs.rl_steps
    found: dict[str, Any] = {
        "sets": {
            chosen.name: {model.key: _metrics(chosen, model, table) for model in chosen.models}
            for chosen, table in zip(inputs.sets, process)
        },
        "models": {model.key: model.scores for model in first.models},
        "balanced_accuracy_gain": {
            f"{before.key}_to_{after.key}": gain and {"gain": gain.value, "ci": [gain.low, gain.high]}
            for (before, after), gain in zip(pairwise(first.trained), first.gains)
        },
        "left_out": left_out(inputs.run),
        "wall_seconds": {stage["stage"]: stage["wall_seconds"] for stage in stages},
        "peak_rss_gib": max(stage["peak_rss_gib"] for stage in stages),
    }
    if rl_steps:
        pearson = [step.get("training/rollout_actor_probs_pearson_corr") for step in rl_steps]
        found["rl"] = {
            "steps": len(rl_steps),
            "rollout_actor_pearson_min": min((r for r in pearson if r is not None), default=None),
            "format_reward": [step.get("reward/format") for step in rl_steps],
            "accuracy_reward": [step.get("reward/accuracy") for step in rl_steps],
        }
        if inputs.held_out:
            names = ("step", "balanced_accuracy", "ci", "fidelity")
            found["rl"]["held_out"] = [{name: record[name] for name in names} for record in inputs.held_out]
        if any("reward/fidelity" in step for step in rl_steps):
            found["rl"]["fidelity_reward"] = [step.get("reward/fidelity") for step in rl_steps]
    return found


def _metrics(chosen: SetInputs, model: Model, process: Table | None) -> dict[str, float | None]:
    """Flat: the strict scores by the names of scores.json, `official_<metric>` of the benchmark's main part."""
    found: dict[str, float | None] = {name: model.scores[name] for name in STRICT}
    found |= {"without_video": chosen.without_video, "trained_on": chosen.trained_on}
    if main := headline(chosen):
        part: Mapping[str, Any] = model.scores["official"][main[0]]
        values = {metric.name: part.get(metric.name) for metric in chosen.benchmark.metrics if metric.name in part}
        found |= {f"official_{name}": value and value["value"] for name, value in values.items()}
    if process:
        row = next((row for row in process.rows if row.name == model.name), None)
        for metric, value in zip(process.metrics, row.values if row else ()):
            if metric.name in PROCESS:
                found[PROCESS[metric.name]] = None if value is None else value.value
    return found

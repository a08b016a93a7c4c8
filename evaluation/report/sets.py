"""What the page shows of one evaluation set: its tables, its figures, and the values of its part of the template."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from evaluation.benchmarks.samples import SAMPLES
from evaluation.comparison import comparison_tables
from evaluation.printed import analysis
from evaluation.report import plots
from evaluation.report.clips import Clips
from evaluation.report.confusable import confusable_table, matrices
from evaluation.report.controls import control_table
from evaluation.report.examples import browser, examples
from evaluation.report.load import Inputs, SetInputs
from evaluation.report.observed import observed_table
from evaluation.report.official import official_tables
from evaluation.report.process import judged, process_table
from evaluation.report.verdict import set_verdict
from evaluation.table import PAPER, Table, html, settings_hash
from rewards.judges.protocol import Judge


def set_tables(inputs: Inputs, chosen: SetInputs) -> list[Table]:
    """Of the set's benchmark; strict, models side by side and their differences; confusable motions and controls."""
    settings = {"recipe": inputs.recipe, "seed": chosen.seed, "ids": [sample.id for sample in chosen.measured.samples]}
    hashed = settings_hash(settings)
    found = [] if chosen.benchmark is SAMPLES else official_tables(chosen, hashed)
    strict = comparison_tables(SAMPLES, chosen.measured, settings)
    by_model = {model.name: graded for model, graded in zip(chosen.models, chosen.measured.graded)}
    observed = observed_table(inputs.run, chosen.name, {m.key: m.name for m in chosen.models}, hashed, chosen.seed)
    more = [
        confusable_table(by_model, hashed, chosen.seed),
        control_table(inputs.run, chosen.name, chosen.models, hashed, chosen.seed),
        observed and beside_the_paper(observed, inputs.recipe),
    ]
    return found + [replace(t, name=f"{chosen.name}_{t.name}") for t in (*strict, *more) if t is not None]


async def set_process(inputs: Inputs, chosen: SetInputs, judge: Judge, name: str) -> tuple[Table | None, str]:
    """The table of observation, thought and answer, or why there is none.

    Raises:
        JudgeError: the judge could not answer.
    """
    by_model = {model.name: graded for model, graded in zip(chosen.models, chosen.measured.graded)}
    hashed = settings_hash({"recipe": inputs.recipe, "seed": chosen.seed, "set": chosen.name, "judge": name})
    reward = inputs.recipe.get("reward", {})
    sufficiency = {key: reward[key] for key in ("sufficient", "show_answer") if key in reward}
    table = await process_table(by_model, judge, name, hashed, chosen.seed, sufficiency)
    if table:
        return replace(beside_the_paper(table, inputs.recipe), name=f"{chosen.name}_process"), ""
    first = chosen.measured.graded[0]
    if judged(first, judge):
        return None, "No model states an observation or a thought."
    return None, f"There is no question that {name} can decide about; a language model can: judge=endpoint."


def beside_the_paper(table: Table, recipe: Mapping[str, Any]) -> Table:
    """The table with what the paper of the run's reward prints of it."""
    rows, source = analysis(table.name, recipe.get("reward", {}).get("name", ""))
    return replace(table, rows=(*table.rows, *rows), note=f"{table.note}. {PAPER} {source}") if rows else table


def set_figures(chosen: SetInputs, colours: Mapping[str, str]) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and what it shows, for those whose data is there."""
    last = chosen.models[-2:]
    figures = {
        "balanced_accuracy": (
            plots.intervals(chosen.models, colours),
            "Balanced accuracy of each model with its 95 % interval",
        ),
        "motion_matrix": (
            plots.motion_matrices({model.name: model.scores["motion_matrix"] for model in last}),
            "True motion against the motion stated in the observation, row shares in percent",
        ),
    }
    return {name: (figure, text) for name, (figure, text) in figures.items() if figure is not None}


def set_page(
    chosen: SetInputs,
    tables: Sequence[Table],
    figures: Mapping[str, Markup],
    process_note: str,
    clips: Clips,
    sets: int,
    browsed: int,
) -> dict[str, Any]:
    """The template's values of a set.

    Args:
        sets: on the page, which share its `browsed` questions.
    """
    models = chosen.models
    asked = sorted({name for model in models for name in model.scores["per_primitive"]})
    return {
        "name": chosen.name,
        "title": chosen.benchmark.title,
        "official": chosen.benchmark is not SAMPLES,
        "models": models,
        "without_video": chosen.without_video,
        "trained_on": chosen.trained_on,
        "verdict": set_verdict(chosen),
        "figures": figures,
        "primitives": asked,
        "confusable": matrices({model.key: graded for model, graded in zip(models, chosen.measured.graded)}),
        "tables": [{"name": t.name, "title": t.title, "rows": len(t.rows), "html": html(t)} for t in tables],
        "process_note": process_note,
        "examples": examples(chosen, clips, sets),
        "browser": browser(chosen, clips, sets, browsed),
    }

"""Models side by side on the questions that they share, with paired intervals of their differences."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_tools.sample import Sample
from evaluation.benchmarks.benchmark import Benchmark, Part, baseline_rows, difference, result_row, trivial
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Estimate, Resamples
from evaluation.runs import Model
from evaluation.table import Row, Table, settings_hash
from rewards.errors import UserError


class ComparisonError(UserError):
    """Models that cannot be compared; the message says why."""


def common_ids(models: Sequence[Model]) -> list[str]:
    """Ids of the questions that all models were asked, in the order of the first.

    Raises:
        ComparisonError: no such question, or one id names different questions.
    """
    shared = [sample.id for sample in models[0].samples]
    for model in models[1:]:
        by_id = {sample.id: sample for sample in model.samples}
        shared = [id for id in shared if id in by_id]
        for sample in models[0].samples:
            other = by_id.get(sample.id)
            if other and (other.question, other.shown, other.answer_text) != (
                sample.question,
                sample.shown,
                sample.answer_text,
            ):
                raise ComparisonError(
                    f"{sample.id!r} is another question in {model.name} than in {models[0].name}: their data differ"
                )
    if not shared:
        raise ComparisonError(f"{' and '.join(model.name for model in models)} share no question")
    return shared


@dataclass(frozen=True)
class Measured:
    """Models on the same questions and the same resamples.

    Attributes:
        graded: per model, in the order of `samples`.
        parts: per model, by name.
    """

    models: Sequence[Model]
    samples: list[Sample]
    graded: list[list[Graded]]
    parts: list[dict[str, Part]]
    resamples: Resamples


def measured(benchmark: Benchmark, models: Sequence[Model], seed: int = 0) -> Measured:
    """Grade and measure all models on the questions that they share.

    A question that one of them failed on stays in, as a wrong answer.

    Raises:
        ComparisonError: no common questions.
    """
    ids = common_ids(models)
    graded = [model.graded(ids) for model in models]
    samples = [j.sample for j in graded[0]]
    resamples = Resamples(benchmark.clusters(samples), seed)
    parts = [{part.name: part for part in benchmark.measure(of_model, resamples)} for of_model in graded]
    return Measured(models, samples, graded, parts, resamples)


def comparison_tables(benchmark: Benchmark, measured: Measured, settings: Any = None) -> list[Table]:
    """A table of all models, and one of their paired differences to the first."""
    first, parts = measured.models[0], measured.parts
    names = [name for name, part in parts[0].items() if part.overall and all(name in found for found in parts)]
    metrics = tuple(m for m in benchmark.metrics if any(m.name in parts[0][name].values for name in names))
    baselines = asyncio.run(trivial(benchmark, measured.samples))
    rows: list[Row] = []
    changes: list[Row] = []
    for name in names:
        for model, found, graded in zip(measured.models, parts, measured.graded):
            rows.append(result_row(f"{model.name} · {name}", found[name], metrics, graded))
            if model is not first:
                change = difference(parts[0][name], found[name])
                changes.append(result_row(f"{model.name} − {first.name} · {name}", change, metrics, graded))
        rows += baseline_rows(baselines, name, metrics)
    ids, seed = [sample.id for sample in measured.samples], measured.resamples.seed
    hashed = settings_hash({"benchmark": benchmark.name, "ids": ids, "seed": seed, "from": settings})
    caption = measured.resamples.caption()
    asked = max(len(model.samples) for model in measured.models)
    note = f"{len(ids)} of {asked} questions, those that all were asked. {benchmark.note}"
    title = f"{benchmark.title}: models side by side"
    made = [Table("compare", title, metrics, tuple(rows), caption, hashed, note)]
    if changes:
        nothing = Row("no change", tuple(Estimate(0.0) for _ in metrics), len(ids), 0, 0, "baseline")
        title = f"{benchmark.title}: differences to {first.name}, paired by video"
        made.append(Table("compare_differences", title, metrics, (*changes, nothing), caption, hashed, note))
    return made

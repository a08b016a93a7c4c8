"""Score predictions against labels, without an engine, a video or a model.

python -m evaluation.score benchmark=NAME labels=PATH predictions=FILE.jsonl [key=value ...]
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_tools.cli import Arguments, UsageError, run_command
from data_tools.console import Console
from data_tools.files import sha256
from data_tools.run_folder import SCORES
from data_tools.sample import Sample, write_samples
from evaluation.benchmarks import (
    BENCHMARKS,
    Benchmark,
    benchmark_named,
    chosen_reader,
    evaluate,
    read_labels,
    require_videos,
)
from evaluation.benchmarks.labels import labels_hash
from evaluation.grading import by_votes, grade_all
from evaluation.measures.bootstrap import RESAMPLES, estimate
from evaluation.predictions import read_predictions
from evaluation.run_scores import write_scores
from evaluation.table import Table, rich, settings_hash, write_tables
from evaluation.unread import unread
from rewards.judges.build import build


class ScoreArguments(Arguments):
    benchmark: str = Field("samples", description="samples (our own records), or a name that benchmark=list prints")
    labels: Path | None = Field(None, description="the benchmark's own file or folder, or our samples made from it")
    predictions: Path | None = Field(
        None, description="JSON Lines: id, response and, where the model gave them, p_yes or option_probs"
    )
    response_schema: str | None = Field(
        None,
        alias="schema",
        description="of the responses: ota, think_answer, think_answer_glue, answer, answer_glue, or none (other "
        "people's: the last <answer>, or the whole text where there is none); the default is the benchmark's",
    )
    reader: Literal["official", "strict"] | None = Field(
        None,
        description="official: as the benchmark's publisher reads responses, with the strict numbers beside; strict: "
        "by schema alone; the default is official with schema=none, where the publisher has a rule for texts",
    )
    only: str | None = Field(None, description="parts to score where not all are there, separated by commas")
    judge: dict[str, Any] | None = Field(
        None, description="rules or endpoint, for what rules cannot grade; judge.KEY=VALUE: its settings"
    )
    before: Path | None = Field(None, description="predictions without the video (video_mmmu: knowledge gain)")
    votes: bool = Field(
        False, description="true: the majority of each prediction's `samples` answers, and their shares are the scores"
    )
    leave_out: bool = Field(
        False, description="true: predictions of other questions in the file are left out, and counted, not an error"
    )
    seed: int = Field(0, ge=0, description="of the bootstrap")
    out: Path | None = Field(None, description="folder for scores.json and every table as Markdown, CSV and LaTeX")
    samples: Path | None = Field(
        None, description="file for the benchmark's questions as our samples, for launch.evaluate to answer"
    )


def main(arguments: ScoreArguments) -> None:
    """Score one file of predictions, print its tables and write them."""
    console = Console()
    if arguments.benchmark == "list":
        for benchmark in BENCHMARKS.values():
            console.print(f"{benchmark.name:22}{benchmark.title}", markup=False)
        return
    benchmark = benchmark_named(arguments.benchmark)
    if arguments.labels is None:
        raise UsageError("labels=... is missing: the benchmark's own file or folder, or our samples")
    labels = read_labels(benchmark, arguments.labels, arguments.only.split(",") if arguments.only else None)
    if arguments.samples:
        chosen = benchmark.own(labels).samples
        require_videos(chosen)
        count = write_samples(arguments.samples, chosen)
        console.print(f"{count} questions: {arguments.samples}", markup=False)
        if arguments.predictions is None:
            return
    tables, scores = score(arguments, benchmark, labels)
    for said in scores["left_out"].values():
        console.print(said, markup=False)
    for table in tables:
        console.print(rich(table, console.width))
    if scores["unread"]:
        console.print(f"note: {scores['unread']}", markup=False)
    if benchmark.before and (gain := scores.get(benchmark.before.key)):
        value, (low, high) = gain["value"], gain["ci"]
        console.print(f"{benchmark.before.title} {value:.1f} [{low:.1f}, {high:.1f}]", markup=False)
    if arguments.out:
        write_tables(arguments.out, tables)
        write_scores(arguments.out / SCORES, scores)
        console.print(f"scores and tables: {arguments.out}", markup=False)


def check(arguments: ScoreArguments, benchmark: Benchmark) -> None:
    """Whether the benchmark has what the arguments ask for.

    Raises:
        UsageError: it has not, or a judge is missing.
    """
    if arguments.before and not benchmark.before:
        with_gain = ", ".join(b.name for b in BENCHMARKS.values() if b.before)
        raise UsageError(f"before=...: {benchmark.name} compares nothing with it; only {with_gain} does")
    if benchmark.needs_judge and arguments.judge is None:
        raise UsageError(f"{benchmark.name} needs a judge: judge=endpoint judge.url=... judge.model=...")


def score(
    arguments: ScoreArguments, benchmark: Benchmark, labels: Sequence[Sample]
) -> tuple[Sequence[Table], dict[str, Any]]:
    """Tables of a file of predictions, and all numbers ready for JSON.

    `parts` are by the first reader, `strict` by the other one; `unread` says where most answers name no option.

    Args:
        labels: samples, also of other sources: the benchmark scores its own, and `left_out` says how many it did not.

    Raises:
        LabelError: no sample is of the benchmark's source.
        UsageError: predictions or a judge are missing, or `before` names what the benchmark does not have.
    """
    if arguments.predictions is None:
        raise UsageError("predictions=... is missing: JSON Lines with id and response")
    check(arguments, benchmark)
    schema = arguments.response_schema or benchmark.schema
    official = chosen_reader(benchmark, schema, arguments.reader) == "official"
    read = benchmark.official if official else None
    chosen = benchmark.own(labels)
    samples, ids, others = chosen.samples, {sample.id for sample in labels}, list[str]()
    leave_out = others.append if arguments.leave_out else None
    predictions = read_predictions(arguments.predictions, ids, leave_out)
    left_out = {"samples": str(chosen)} if chosen.left_out else {}
    if others:
        left_out["predictions"] = f"{len(others)} predictions of other questions are left out"
    if arguments.votes:
        predictions = {s.id: by_votes(s, predictions[s.id], schema, read) for s in samples if s.id in predictions}
    judge = build(arguments.judge) if arguments.judge else None
    settings = {
        "benchmark": benchmark.name,
        "schema": schema,
        "reader": "official" if official else "strict",
        "seed": arguments.seed,
        "resamples": RESAMPLES,
        "judge": arguments.judge,
        "votes": arguments.votes,
        "labels": labels_hash(samples),
        "predictions": sha256(arguments.predictions)[:12],
    }
    how: dict[str, Any] = {"schema": schema, "judge": judge, "seed": arguments.seed, "official": official}
    result = asyncio.run(evaluate(benchmark, samples, predictions, settings=settings_hash(settings), **how))
    counts = dict(Counter(j.outcome for j in result.graded))
    scores: dict[str, Any] = {"settings": settings, "counts": counts, "left_out": left_out, "parts": result.scores()}
    scores["strict"] = result.readings[1].scores() if official else None
    scores["unread"] = unread(benchmark, result.graded, scores["settings"])
    if judge:
        scores["judge"] = judge.metrics()
    if arguments.before and benchmark.before:
        before = grade_all(samples, read_predictions(arguments.before, ids, leave_out), schema, read)
        gain = estimate(benchmark.before.measure(before, result.graded, arguments.seed))
        scores[benchmark.before.key] = gain and {"value": gain.value, "ci": [gain.low, gain.high]}
    return result.tables, scores


if __name__ == "__main__":
    run_command(main, ScoreArguments, __doc__)

"""Models side by side on the questions that they share, with paired intervals of their differences.

python -m evaluation.compare RUN[:MODEL] RUN[:MODEL] ... [key=value ...]
python -m evaluation.compare FILE.jsonl FILE.jsonl ... benchmark=NAME labels=PATH [key=value ...]

  RUN          a run folder, e.g. runs/demo/main; :base, :sft or :rl for one of its models. The first one is compared to
  benchmark    as in evaluation.score; runs are scored as samples
  labels, only, schema, seed, out    as in evaluation.score
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from data_tools.sample import SampleError
from evaluation.answers import PredictionError, read_predictions
from evaluation.benchmarks import BENCHMARKS, Benchmark, LabelError, read_labels
from evaluation.benchmarks.base import Part, baseline_rows, counts, estimates, trivial
from evaluation.bootstrap import Estimate, Resamples
from evaluation.cli import UsageError, key_values, whole_number
from evaluation.runs import Model, models_of
from evaluation.score import file_hash, labels_hash, write_scores
from evaluation.table import Row, Table, TableError, as_json, rich, settings_hash, write_tables


def common_ids(models: Sequence[Model]) -> list[str]:
    """Ids of the questions that all models were asked, in the order of the first.

    Raises:
        UsageError: none, or one id stands for different questions.
    """
    shared = [sample.id for sample in models[0].samples]
    for model in models[1:]:
        by_id = {sample.id: sample for sample in model.samples}
        shared = [id for id in shared if id in by_id]
        for sample in models[0].samples:
            other = by_id.get(sample.id)
            if other and (other.question, other.video, other.answer_text) != (
                sample.question,
                sample.video,
                sample.answer_text,
            ):
                raise UsageError(
                    f"{sample.id!r} is another question in {model.name} than in {models[0].name}: their data differ"
                )
    if not shared:
        raise UsageError(f"{' and '.join(model.name for model in models)} share no question")
    return shared


def compare(benchmark: Benchmark, models: Sequence[Model], seed: int = 0, settings: Any = None) -> list[Table]:
    """A table of all models, and one of their paired differences to the first.

    A question that one of them failed on stays in, as a wrong answer.

    Raises:
        UsageError: no common questions.
    """
    ids = common_ids(models)
    judged = [model.judgements(ids) for model in models]
    samples = [j.sample for j in judged[0]]
    resamples = Resamples(benchmark.clusters(samples), seed)
    found = [{part.name: part for part in benchmark.measure(of, resamples)} for of in judged]
    overall = [name for name, part in found[0].items() if part.overall and all(name in of for of in found)]
    metrics = tuple(m for m in benchmark.metrics if any(m.name in found[0][name].values for name in overall))
    beside = asyncio.run(trivial(benchmark, samples))
    rows, changes = [], []
    for part in overall:
        for model, of, judgements in zip(models, found, judged):
            rows.append(Row(f"{model.name} · {part}", estimates(of[part], metrics), **counts(of[part], judgements)))
            if of is not found[0]:
                before, after = found[0][part].values, of[part].values
                gain = Part(part, of[part].members_N, {name: after[name] - before[name] for name in before})
                name = f"{model.name} − {models[0].name} · {part}"
                changes.append(Row(name, estimates(gain, metrics), **counts(gain, judgements)))
        rows += baseline_rows(beside, part, metrics)
    asked = max(len(model.samples) for model in models)
    common = {
        "metrics": metrics,
        "interval": resamples.caption(),
        "settings": settings_hash({"benchmark": benchmark.name, "ids": ids, "seed": seed, "from": settings}),
        "note": f"{len(ids)} of {asked} questions, those that all were asked. {benchmark.note}",
    }
    made = [Table("compare", f"{benchmark.title}: models side by side", rows=tuple(rows), **common)]
    if changes:
        nothing = Row("no change", tuple(Estimate(0.0) for _ in metrics), len(ids), 0, 0, "baseline")
        title = f"{benchmark.title}: differences to {models[0].name}, paired by video"
        made.append(Table("compare_differences", title, rows=(*changes, nothing), **common))
    return made


def load(specs: Sequence[str], options: dict[str, Any]) -> tuple[Benchmark, list[Model]]:
    """Benchmark and models of a command line."""
    benchmark = BENCHMARKS.get(options.get("benchmark", "samples"))
    if benchmark is None:
        raise UsageError(f"benchmark={options['benchmark']}: choose one of {', '.join(BENCHMARKS)}")
    if "labels" not in options:
        models = [model for spec in specs for model in models_of(spec)]
    else:
        only = options["only"].split(",") if "only" in options else None
        samples = read_labels(benchmark, Path(options["labels"]), only)
        schema, ids = options.get("schema", benchmark.schema), {sample.id for sample in samples}
        stems = [Path(spec).stem for spec in specs]
        names = stems if len(set(stems)) == len(stems) else specs
        models = [Model(n, samples, read_predictions(Path(s), ids), schema) for n, s in zip(names, specs)]
    if len(models) < 2:
        raise UsageError("name two or more models: RUN[:MODEL] ..., or prediction files with benchmark= and labels=")
    return benchmark, models


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__)
        return 0
    console = Console()
    try:
        specs, options = key_values(arguments, ("benchmark", "labels", "only", "schema", "seed", "out"))
        benchmark, models = load(specs, options)
        hashes = [labels_hash(model.samples) for model in models] + [
            file_hash(Path(s)) for s in specs if Path(s).is_file()
        ]
        made = compare(benchmark, models, whole_number(options, "seed", 0), hashes)
        for table in made:
            console.print(rich(table, console.width))
        if "out" in options:
            out = Path(options["out"])
            write_tables(out, made)
            write_scores(out / "compare.json", {table.name: as_json(table) for table in made})
            console.print(f"tables: {out}", markup=False)
    except (SampleError, PredictionError, LabelError, TableError, UsageError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

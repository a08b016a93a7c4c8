"""Compare models on the questions that they share, with paired intervals of their differences.

python -m evaluation.compare RUN[:MODEL] RUN[:MODEL] ... [key=value ...]
python -m evaluation.compare FILE.jsonl FILE.jsonl ... benchmark=NAME labels=PATH [key=value ...]

RUN is a run folder, e.g. runs/demo/main; :base, :sft or :rl chooses one of its models. All models are compared with the
first one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from data_tools.cli import Arguments, UsageError, run_command
from data_tools.console import Console
from data_tools.files import sha256
from data_tools.run_folder import RunFolder
from evaluation.benchmarks import Benchmark, benchmark_named, chosen_reader, read_labels
from evaluation.benchmarks.labels import labels_hash
from evaluation.comparison import comparison_tables, measured
from evaluation.predictions import read_predictions
from evaluation.run_scores import write_scores
from evaluation.runs import Model, models_of
from evaluation.table import as_json, rich, write_tables


class CompareArguments(Arguments):
    files: list[str] = Field([], description="two or more: RUN or RUN:MODEL, or files of predictions")
    benchmark: str = Field("samples", description="as in evaluation.score: it takes the samples of its own source")
    labels: Path | None = Field(None, description="for files of predictions: as in evaluation.score")
    only: str | None = Field(None, description="parts to score where not all are there, separated by commas")
    response_schema: str | None = Field(None, alias="schema", description="as in evaluation.score")
    reader: Literal["official", "strict"] | None = Field(None, description="of files: as in evaluation.score")
    leave_out: bool = Field(False, description="as in evaluation.score")
    seed: int = Field(0, ge=0, description="of the bootstrap")
    out: Path | None = Field(None, description="folder for compare.json and the tables as Markdown, CSV and LaTeX")


def load(arguments: CompareArguments) -> tuple[Benchmark, list[Model], list[str]]:
    """Benchmark and models of a command line, and what of their files is left out."""
    benchmark, files = benchmark_named(arguments.benchmark), arguments.files
    models: list[Model] = []
    said: list[str] = []
    if arguments.labels is None:
        for spec in files:
            folder, _, key = spec.partition(":")
            run = RunFolder(Path(folder))
            models += [replace(m, name=f"{run.root.name} · {m.name}") for m in models_of(run, [key] if key else [])]
    else:
        samples = read_labels(benchmark, arguments.labels, arguments.only.split(",") if arguments.only else None)
        schema, ids = arguments.response_schema or benchmark.schema, {sample.id for sample in samples}
        others: list[str] = []
        leave_out = others.append if arguments.leave_out else None
        stems = [Path(file).stem for file in files]
        names = stems if len(set(stems)) == len(stems) else files
        reader = chosen_reader(benchmark, schema, arguments.reader)
        read = benchmark.official if reader == "official" else None
        models = [
            Model(n, samples, read_predictions(Path(f), ids, leave_out), schema, read) for n, f in zip(names, files)
        ]
        said.append(f"responses are read by reader={reader} schema={schema}")
        said += [f"{len(others)} predictions of other questions are left out"] if others else []
    if len(models) < 2:
        raise UsageError("name two or more models: RUN[:MODEL] ..., or prediction files with benchmark= and labels=")
    for place, model in enumerate(models):
        chosen = benchmark.own(model.samples)
        models[place] = replace(model, samples=chosen.samples)
        said += [f"{model.name}: {chosen}"] if chosen.left_out else []
    return benchmark, models, said


def main(arguments: CompareArguments) -> None:
    console = Console()
    benchmark, models, said = load(arguments)
    for line in said:
        console.print(line, markup=False)
    files = [Path(file) for file in arguments.files]
    hashes = [labels_hash(model.samples) for model in models] + [sha256(file)[:12] for file in files if file.is_file()]
    tables = comparison_tables(benchmark, measured(benchmark, models, arguments.seed), hashes)
    for table in tables:
        console.print(rich(table, console.width))
    if arguments.out:
        write_tables(arguments.out, tables)
        write_scores(arguments.out / "compare.json", {table.name: as_json(table) for table in tables})
        console.print(f"tables: {arguments.out}", markup=False)


if __name__ == "__main__":
    run_command(main, CompareArguments, __doc__)

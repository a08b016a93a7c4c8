"""A paper's ablation table from run folders of the demo's scale, with the paper's own figures beside it, marked.

python -m evaluation.tables table=camreasoner3|camreasoner4|videop2r2|videochat_r1_6 runs=RUN[,RUN ...] [key=value ...]

  runs    run folders, or ROW=RUN where the recipe alone does not tell which row a run is; RUN may be a glob pattern
  seed    of the bootstrap
  out     a folder for the table as Markdown, CSV and LaTeX

Each row finds its run by the run's resolved recipe. Rows without one show a dash and the command that makes their run.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from data_tools.sample import SampleError
from evaluation.answers import PredictionError
from evaluation.benchmarks import BENCHMARKS, LabelError
from evaluation.benchmarks.base import Part, counts, trivial
from evaluation.bootstrap import Estimate, Resamples, estimate
from evaluation.cli import UsageError, key_values, whole_number
from evaluation.runs import Model, models_of, recipe_of
from evaluation.score import labels_hash
from evaluation.table import Metric, Row, Table, TableError, rich, settings_hash, write_tables

OWN = BENCHMARKS["samples"]


@cache
def papers() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("papers.yaml").read_text(encoding="utf-8"))


def matches(when: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether a resolved recipe says all of `when`: a value, one of a list, or a number above another."""
    for key, wanted in when.items():
        value: Any = recipe
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(wanted, Mapping):
            if not isinstance(value, int | float) or value <= wanted["above"]:
                return False
        elif value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def find(spec: Mapping[str, Any], runs: Mapping[str, Path]) -> dict[str, tuple[Path, str]]:
    """Row id -> run and model. `runs`: row id or folder name -> folder; a row named by its id takes that run.

    A model that is the same in all runs is taken from one that stands in the table with another model already.

    Raises:
        UsageError: several runs fit one row.
    """
    found: dict[str, tuple[Path, str]] = {}
    rows = {id: row for id, row in spec["rows"].items() if "model" in row}
    for id, row in sorted(rows.items(), key=lambda item: "when" not in item[1]):
        if id in runs:
            found[id] = runs[id], row["model"]
            continue
        fitting = [
            run
            for name, run in runs.items()
            if name not in spec["rows"]
            and matches(row.get("when", {}), recipe_of(run))
            and (run / "eval" / row["model"] / "predictions.jsonl").is_file()
        ]
        if "when" not in row:
            used = [run for run, _ in found.values()]
            fitting = sorted(fitting, key=lambda run: run not in used)[:1]
        if len(fitting) > 1:
            raise UsageError(
                f"row {id!r}: {', '.join(map(str, fitting))} all fit: name one with runs={id}={fitting[0]},..."
            )
        if fitting:
            found[id] = fitting[0], row["model"]
    return found


def build(name: str, runs: Mapping[str, Path], seed: int = 0) -> tuple[Table, dict[str, str]]:
    """The table, and for each row without a run the command that makes it.

    Raises:
        UsageError: an unknown table, or no run fits any row.
    """
    if name not in papers():
        raise UsageError(f"table={name}: choose one of {', '.join(papers())}")
    spec = papers()[name]
    for row in [name for name, run in runs.items() if name not in spec["rows"] and name != str(run)]:
        raise UsageError(f"runs={row}=...: no row of {spec['source']}; choose one of {', '.join(spec['rows'])}")
    placed = find(spec, runs)
    if not placed:
        raise UsageError(f"no run of {', '.join(map(str, runs.values()))} fits a row of {spec['source']}")
    models = {id: models_of(f"{run}:{model}")[0] for id, (run, model) in placed.items()}
    if len({labels_hash(model.samples) for model in models.values()}) > 1:
        raise UsageError("the runs have different test questions, so that their rows cannot stand in one table")
    ours = [tuple(column) for column in spec["ours"]]
    held = {id: _parts(model, seed) for id, model in models.items()}
    first = next(iter(models.values()))
    beside = asyncio.run(trivial(OWN, first.samples))
    ours = [(part, metric) for part, metric in ours if any(_of(parts, part, metric) for parts, _ in held.values())]
    scales = {metric.name: metric for metric in OWN.metrics}
    metrics = [Metric(f"{part}: {m}", scales[m].averaging, scales[m].scale) for part, m in ours]
    metrics += [Metric(column, "as the paper has it", 100, spec["source"]) for column in spec["columns"]]
    rows = []
    for id, row in spec["rows"].items():
        figures = [None if figure is None else Estimate(figure / 100) for figure in row["figures"]]
        if id in held:
            parts, judgements = held[id]
            values = [_of(parts, part, metric) for part, metric in ours]
            label = f"{row['label']} ({placed[id][0].name})"
            rows.append(Row(label, (*values, *figures), **counts(parts["all questions"], judgements)))
        else:
            rows.append(Row(f"{row['label']} (no run)", (*[None] * len(ours), *figures), kind="paper"))
    nothing = [None] * len(spec["columns"])
    constants: dict[tuple, list[str]] = defaultdict(list)
    for label, parts in beside.items():
        values = tuple(value and Estimate(value.value) for value in (_of(parts, *column) for column in ours))
        if any(values):
            constants[values].append(label)
    for values, labels in constants.items():
        label = labels[0] if len(labels) == 1 else f"{labels[0]} (and {len(labels) - 1} alike)"
        rows.append(Row(label, (*values, *nothing), len(first.samples), 0, 0, "baseline"))
    runs_used = {id: f"{run}:{model}" for id, (run, model) in placed.items()}
    made = Table(
        name=name,
        title=f"{spec['title']} (after {spec['source']}), on the demo's scale",
        metrics=tuple(metrics),
        rows=tuple(rows),
        interval=Resamples(OWN.clusters(first.samples), seed).caption("clips"),
        settings=settings_hash({"table": name, "runs": runs_used, "labels": labels_hash(first.samples), "seed": seed}),
        note=spec["note"],
    )
    absent = {id: row["run"] for id, row in spec["rows"].items() if id not in held}
    return made, absent


def _parts(model: Model, seed: int) -> tuple[dict[str, Part], list]:
    judgements = model.judgements([sample.id for sample in model.samples])
    resamples = Resamples(OWN.clusters(model.samples), seed)
    return {part.name: part for part in OWN.measure(judgements, resamples)}, judgements


def _of(parts: Mapping[str, Part], part: str, metric: str) -> Estimate | None:
    values = parts[part].values.get(metric) if part in parts else None
    return None if values is None else estimate(values)


def named_runs(text: str) -> dict[str, Path]:
    """`runs=` of the command line: folders by row id, or by their own path.

    Raises:
        UsageError: a pattern that fits nothing.
    """
    runs: dict[str, Path] = {}
    for entry in text.split(","):
        id, equals, pattern = entry.rpartition("=")
        folders = [pattern]
        if any(sign in pattern for sign in "*?["):
            folders = [path for path in sorted(glob(pattern)) if Path(path).is_dir()]
        if not folders or not pattern:
            raise UsageError(f"runs={entry}: fits no folder")
        for folder in folders:
            runs[id if equals else str(Path(folder))] = Path(folder)
    return runs


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__)
        return 0
    console = Console()
    try:
        _, options = key_values(arguments, ("table", "runs", "seed", "out"))
        if not {"table", "runs"} <= options.keys():
            raise UsageError("table=... and runs=... are needed")
        table, absent = build(options["table"], named_runs(options["runs"]), whole_number(options, "seed", 0))
        console.print(rich(table, console.width))
        for id, made_by in absent.items():
            console.print(f"  {id}: no run; {made_by}", markup=False, soft_wrap=True)
        if "out" in options:
            write_tables(Path(options["out"]), [table])
            console.print(f"table: {options['out']}", markup=False)
    except (SampleError, PredictionError, LabelError, TableError, UsageError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

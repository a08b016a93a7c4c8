"""Fill a paper's table from run folders, beside the paper's own figures, which are marked.

python -m evaluation.papers table=NAME runs=RUN[,RUN ...] [key=value ...]

Each row finds its run by the run's resolved recipe, each column its evaluation set by the benchmark that scored it. A
row without a run says which command makes one. Runs of the demos fill the tables that have columns at their scale.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import Any

from pydantic import Field

from data_tools.cli import Arguments, UsageError, run_command
from data_tools.console import Console
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples
from evaluation.benchmarks import benchmark_named
from evaluation.benchmarks.benchmark import Part, trivial
from evaluation.benchmarks.labels import labels_hash
from evaluation.measures.bootstrap import RESAMPLES, Estimate, estimate
from evaluation.printed import figures, papers
from evaluation.runs import need, read_json, recipe_of, sets_of
from evaluation.table import PAPER, Metric, Row, Table, rich, settings_hash, write_tables


class PapersArguments(Arguments):
    table: str = Field(description="a table of evaluation/papers.yaml, e.g. camreasoner1; `list` names them")
    runs: str = Field(
        "",
        description="run folders or glob patterns, separated by commas; ROW=RUN where the recipe alone does not say "
        "which row a run is",
    )
    out: Path | None = Field(None, description="folder for the table as Markdown, CSV and LaTeX")


@dataclass(frozen=True)
class Column:
    """`part`: a pattern, since the name of a mean says over how many groups it is."""

    header: str
    benchmark: str
    part: str
    metric: str


@dataclass(frozen=True)
class Evaluated:
    """A run's model that fills a row; `sets`: benchmark -> the set that it scored."""

    run: RunFolder
    model: str
    sets: Mapping[str, str]

    def values(self, columns: Sequence[Column]) -> list[Estimate | None]:
        """Of the sets' official parts, with their intervals."""
        found = []
        for column in columns:
            parts = self._official(column.benchmark)
            name = _part(parts, column.part)
            value = parts[name].get(column.metric) if name else None
            found.append(Estimate(value["value"], *value["ci"]) if value and value["ci"][0] is not None else None)
        return found

    def counts(self, columns: Sequence[Column]) -> tuple[int, int, int]:
        """Questions, failures and malformed responses of all sets together."""
        firsts: list[dict[str, Any]] = [
            next(iter(self._official(name).values()), {}) for name in dict.fromkeys(c.benchmark for c in columns)
        ]
        n, failures, malformed = (sum(p.get(key, 0) for p in firsts) for key in ("n", "failures", "malformed"))
        return n, failures, malformed

    def _official(self, benchmark: str) -> dict[str, Any]:
        if benchmark not in self.sets:
            return {}
        scores = read_json(self.run.scores(self.sets[benchmark], self.model), "evaluate")
        return scores.get("official") or {}


def columns_of(columns: Mapping[str, Sequence[str]], metric: str | None = None) -> list[Column]:
    """Columns of a table; `metric` of those that name none."""
    return [Column(header, *(spec if len(spec) == 3 else [*spec, metric or ""])) for header, spec in columns.items()]


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


def evaluated(run: RunFolder, row: Mapping[str, Any], benchmarks: Sequence[str]) -> Evaluated | None:
    """The run's model of a row and the sets that it was asked, or None."""
    sets: dict[str, str] = {}
    models: dict[str, None] = {}
    for name in sets_of(run):
        facts = read_json(run.set_facts(name), "evaluate")
        model = next((model for model, of in facts["models"].items() if of["is"] == row["model"]), None)
        if model and facts["benchmark"] in benchmarks and matches(row.get("asked", {}), facts):
            models.setdefault(model)
            sets.setdefault(facts["benchmark"], name)
    return Evaluated(run, next(iter(models)), sets) if models else None


def find(spec: Mapping[str, Any], runs: Mapping[str, Path], benchmarks: Sequence[str]) -> dict[str, Evaluated]:
    """Row id -> what fills it. `runs`: row id or folder name -> folder; a row named by its id takes that run.

    A model that is the same in all runs is taken from a run that is in the table with another model already.

    Raises:
        UsageError: several runs fit one row.
    """
    found: dict[str, Evaluated] = {}
    rows = {id: row for id, row in spec["rows"].items() if "model" in row}
    for id, row in sorted(rows.items(), key=lambda item: "when" not in item[1]):
        named = [runs[id]] if id in runs else [run for name, run in runs.items() if name not in spec["rows"]]
        fitting = [
            of
            for run in map(RunFolder, named)
            if (id in runs or matches(row.get("when", {}), recipe_of(run))) and (of := evaluated(run, row, benchmarks))
        ]
        if "when" not in row:
            used = [of.run.root for of in found.values()]
            fitting = sorted(fitting, key=lambda of: of.run.root not in used)[:1]
        if len(fitting) > 1:
            fit = [str(of.run.root) for of in fitting]
            raise UsageError(f"row {id!r}: {', '.join(fit)} all fit: name one with runs={id}={fit[0]},...")
        if fitting:
            found[id] = fitting[0]
    return found


def build(name: str, runs: Mapping[str, Path]) -> tuple[Table, dict[str, str]]:
    """The table, and for each row without a run the command that makes it.

    Raises:
        UsageError: an unknown table, or no run fits any row.
    """
    if name not in papers():
        raise UsageError(f"table={name}: choose one of {', '.join(papers())}")
    spec = papers()[name]
    for row in [name for name, run in runs.items() if name not in spec["rows"] and name != str(run)]:
        raise UsageError(f"runs={row}=...: not a row of {spec['source']}; choose one of {', '.join(spec['rows'])}")
    for scale in ("columns", "demo"):
        shown = spec["columns"] if scale == "columns" else spec.get("demo", {}).get("columns", {})
        benchmarks = list(dict.fromkeys(column[0] for column in shown.values()))
        if placed := find(spec, runs, benchmarks):
            make = _demo_table if scale == "demo" else _study_table
            experiment = spec["demo"]["experiment"] if scale == "demo" else spec["experiment"]
            absent = {id: row for id, row in spec["rows"].items() if "model" in row and id not in placed}
            return make(name, spec, placed), {id: command(experiment, id, row) for id, row in absent.items()}
    raise UsageError(
        f"no run of {', '.join(map(str, runs.values()))} fits a row of {spec['source']} and was asked its benchmarks"
    )


def command(experiment: str, id: str, row: Mapping[str, Any]) -> str:
    """What makes the run of a row."""
    if "/" in row["model"]:  # a released checkpoint is one more model of any run
        return f"make evaluate EXPERIMENT={experiment} ARGS=\"'eval.models={{{id}: {row['model']}}}'\""
    whole = "demo" if experiment.startswith("demo") else "data sets model sft rl merge evaluate"
    words = ["make", row.get("stages", whole), *([f"EXPERIMENT={experiment}"] if experiment != "demo" else [])]
    return " ".join([*words, *([f"NAME={id}", f'ARGS="{row["change"]}"'] if "change" in row else [])])


def _study_table(name: str, spec: Mapping[str, Any], placed: Mapping[str, Evaluated]) -> Table:
    """Ours and the paper's in the same columns, each in a line of its own that names the metric."""
    metrics = spec.get("metrics", [None])
    rows = []
    for id, row in spec["rows"].items():
        of, printed = placed.get(id), row.get("figures")
        for metric in metrics:
            columns, ending = columns_of(spec["columns"], metric), f" · {metric}" if metric else ""
            if of:
                label = f"{row['label']} ({of.run.root.name}){ending}"
                rows.append(Row(label, tuple(of.values(columns)), *of.counts(columns)))
            of_metric = printed.get(metric) if isinstance(printed, Mapping) else printed
            if of_metric:
                rows.append(Row(f"{row['label']}{PAPER}{ending}", figures(of_metric), kind="paper"))
    for metric in metrics:
        best = _best_trivial(placed, columns_of(spec["columns"], metric))
        rows.append(Row("best trivial" + (f" · {metric}" if metric else ""), best, 0, 0, 0, "baseline"))
    note = f"{PAPER} the paper's own figures, of other models, printed as they are. {spec['note']}"
    shown = [
        Metric(c.header, _where(c) if c.metric else f"{c.benchmark}, part and metric as column and line say")
        for c in columns_of(spec["columns"])
    ]
    return _table(name, f"{spec['title']} ({spec['source']})", spec, placed, shown, rows, note)


def _demo_table(name: str, spec: Mapping[str, Any], placed: Mapping[str, Evaluated]) -> Table:
    """Ours in columns of their own, since the demo's questions are others; the paper's figures beside them, marked."""
    columns = [c for c in columns_of(spec["demo"]["columns"]) if any(any(of.values([c])) for of in placed.values())]
    theirs = [Metric(header, "as the paper has it", 100, spec["source"]) for header in spec["columns"]]
    rows = []
    for id, row in spec["rows"].items():
        theirs_of_row = figures(row.get("figures") or [None] * len(theirs))
        if of := placed.get(id):
            values = (*of.values(columns), *theirs_of_row)
            rows.append(Row(f"{row['label']} ({of.run.root.name})", values, *of.counts(columns)))
        else:
            rows.append(Row(f"{row['label']} (no run)", (*[None] * len(columns), *theirs_of_row), kind="paper"))
    best = _best_trivial(placed, columns)
    rows.append(Row("best trivial", (*best, *[None] * len(theirs)), 0, 0, 0, "baseline"))
    shown = [*(Metric(c.header, _where(c)) for c in columns), *theirs]
    title = f"{spec['title']} (after {spec['source']}), on the demo's scale"
    return _table(name, title, spec, placed, shown, rows, spec["note"])


def _table(
    name: str,
    title: str,
    spec: Mapping[str, Any],
    placed: Mapping[str, Evaluated],
    metrics: Sequence[Metric],
    rows: Sequence[Row],
    note: str,
) -> Table:
    hashes = {benchmark: labels_hash(_samples(of, benchmark)) for of in placed.values() for benchmark in of.sets}
    settings = {"table": name, "labels": hashes, "runs": {id: f"{of.run.root}:{of.model}" for id, of in placed.items()}}
    interval = f"95 % percentile bootstrap, {RESAMPLES} resamples of the videos"
    return Table(name, title, tuple(metrics), tuple(rows), interval, settings_hash(settings), note)


def _where(column: Column) -> str:
    return f"{column.benchmark}, {column.part.replace('* ', '')}: {column.metric}"


def _samples(of: Evaluated, benchmark: str) -> list[Sample]:
    return list(read_samples(need(of.run.asked(of.sets[benchmark]), "evaluate")))


def _best_trivial(placed: Mapping[str, Evaluated], columns: Sequence[Column]) -> tuple[Estimate | None, ...]:
    """The best that needs no model, of each column.

    Raises:
        UsageError: the runs were asked different questions.
    """
    baselines: dict[str, list[dict[str, Part]]] = {}
    for benchmark in dict.fromkeys(column.benchmark for column in columns):
        asked = {labels_hash(samples): samples for of in placed.values() if benchmark in of.sets
                 for samples in [_samples(of, benchmark)]}  # fmt: skip
        if len(asked) > 1:
            raise UsageError(
                f"the runs have different test questions of {benchmark}, so that they cannot share a table"
            )
        for samples in asked.values():
            baselines[benchmark] = list(asyncio.run(trivial(benchmark_named(benchmark), samples)).values())
    best: list[Estimate | None] = []
    for column in columns:
        found = [parts[name].values.get(column.metric) for parts in baselines.get(column.benchmark, [])
                 if (name := _part(parts, column.part))]  # fmt: skip
        values = [value for each in found if each is not None and (value := estimate(each))]
        best.append(Estimate(max(value.value for value in values)) if values else None)
    return tuple(best)


def _part(parts: Mapping[str, Any], pattern: str) -> str | None:
    return next((name for name in parts if fnmatchcase(name, pattern)), None)


def named_runs(text: str) -> dict[str, Path]:
    """Folders of `runs=` by row id, or by their own path.

    Raises:
        UsageError: a pattern that matches no folder.
    """
    runs: dict[str, Path] = {}
    for entry in text.split(","):
        id, equals, pattern = entry.rpartition("=")
        folders = [pattern]
        if any(sign in pattern for sign in "*?["):
            folders = [path for path in sorted(glob(pattern)) if Path(path).is_dir()]
        if not folders or not pattern:
            raise UsageError(f"runs={entry}: no such folder")
        for folder in folders:
            runs[id if equals else str(Path(folder))] = Path(folder)
    return runs


def main(arguments: PapersArguments) -> None:
    console = Console()
    if arguments.table == "list":
        for name, spec in papers().items():
            console.print(f"{name:16}{spec['source']}: {spec['title']}", markup=False)
        return
    table, absent = build(arguments.table, named_runs(arguments.runs))
    console.print(rich(table, console.width))
    for id, made_by in absent.items():
        console.print(f"  {id}: no run; {made_by}", markup=False, soft_wrap=True)
    if arguments.out:
        write_tables(arguments.out, [table])
        console.print(f"table: {arguments.out}", markup=False)


if __name__ == "__main__":
    run_command(main, PapersArguments, __doc__)

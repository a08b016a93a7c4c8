"""What a benchmark is: label files -> samples, judged answers -> numbers, and the trivial baselines."""

import asyncio
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from pydantic import ValidationError

from data_tools.sample import BY_OPTION, RecordError, Sample, SampleError, first_fault, read_samples
from data_tools.sources.source import Source, SourceError, by_option
from evaluation.answers import FAILURES, PLAIN, RIGHT, Judgement, Prediction, Schema, answers, judge_all
from evaluation.bootstrap import Estimate, Resamples, estimate, over_groups
from evaluation.table import Metric, Row, Table
from rewards.judge import Judge

Baselines = dict[str, dict[str, Prediction]]
MICRO = "micro: over questions"
ASKED = "asked"  # mark of every judgement of a set that a judge was asked about


class LabelError(ValueError):
    """A label file that breaks its format; the message names file, record and field."""


@dataclass(frozen=True)
class Part:
    """Numbers of one line: all questions in some average, or a part of them.

    Attributes:
        members_N: bool, the judgements that it covers.
        values: metric name -> [1 + R]; row 0 is the value, the others are resamples.
        overall: whether baselines are set beside it in the main table.
    """

    name: str
    members_N: np.ndarray
    values: Mapping[str, np.ndarray]
    overall: bool = False


Measure = Callable[[Sequence[Judgement], Resamples], list[Part]]
Ask = Callable[[Sequence[Judgement], Judge], Awaitable[list[Judgement]]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        read: label file or folder, names of the parts to keep (None: all must be there) -> samples.
        metrics: its columns, in order. One that no part has a value for is left out.
        measure: judgements in the order of the samples -> lines, those over all questions first.
        baselines: samples -> name -> predictions that need no model.
        clusters: what the bootstrap draws for each sample: its video, or the two of a pair.
        ask: asks the judge what rules cannot tell; None where rules suffice.
        note: deviations from the official scorer, and what is named otherwise.
        schema: of responses when the user names none.
    """

    name: str
    title: str
    read: Callable[[Path, Sequence[str] | None], list[Sample]]
    metrics: tuple[Metric, ...]
    measure: Measure
    baselines: Callable[[Sequence[Sample]], Baselines]
    clusters: Callable[[Sequence[Sample]], Sequence[str | tuple[str, str]]] = lambda samples: [s.video for s in samples]
    ask: Ask | None = None
    note: str = ""
    schema: str = PLAIN


@dataclass(frozen=True)
class Result:
    """Parts and tables of one prediction file."""

    benchmark: Benchmark
    judgements: list[Judgement]
    parts: list[Part]
    tables: list[Table]

    def scores(self) -> dict[str, Any]:
        """Part -> metric -> value and interval, with counts; ready for JSON."""
        return {part.name: {**counts(part, self.judgements), **_numbers(part)} for part in self.parts}


async def evaluate(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    *,
    settings: str,
    schema: Schema | None = None,
    judge: Judge | None = None,
    seed: int = 0,
) -> Result:
    """Score predictions.

    Raises:
        JudgeError: the judge could not answer.
    """
    judgements = judge_all(samples, predictions, schema or benchmark.schema)
    if benchmark.ask and judge:
        judgements = await benchmark.ask(judgements, judge)
    clusters = benchmark.clusters(samples)
    resamples = Resamples(clusters, seed)
    parts = benchmark.measure(judgements, resamples)
    beside = await trivial(benchmark, samples, judge)
    made = tables(benchmark, judgements, parts, beside, resamples.caption(), settings)
    return Result(benchmark, judgements, parts, made)


async def trivial(
    benchmark: Benchmark, samples: Sequence[Sample], judge: Judge | None = None
) -> dict[str, dict[str, Part]]:
    """Baseline -> part name -> numbers without intervals, of the parts in which the baseline answers every question."""
    once = Resamples(benchmark.clusters(samples), count=0)
    found = {}
    for name, said in benchmark.baselines(samples).items():
        judged = judge_all(samples, said, PLAIN)
        if benchmark.ask and judge:
            judged = await benchmark.ask(judged, judge)
        answered = np.array([sample.id in said for sample in samples])
        parts = benchmark.measure(judged, once)
        found[name] = {part.name: part for part in parts if answered[part.members_N].all()}
    return found


def tables(
    benchmark: Benchmark,
    judgements: Sequence[Judgement],
    parts: Sequence[Part],
    beside: Mapping[str, Mapping[str, Part]],
    interval: str,
    settings: str,
) -> list[Table]:
    """Main table (all questions, beside every baseline) and, where there are parts, theirs beside the best baseline."""
    metrics = tuple(m for m in benchmark.metrics if any(m.name in part.values for part in parts))
    main, rest = [], []
    for part in parts:
        row = Row(part.name, estimates(part, metrics), kind="result", **counts(part, judgements))
        if part.overall:
            main += [row, *baseline_rows(beside, part.name, metrics)]
            continue
        best = []
        for metric in metrics:
            options = [estimates(of[part.name], (metric,), False)[0] for of in beside.values() if part.name in of]
            values = [value for value in options if value]
            best.append(max(values, key=lambda value: value.value, default=None))
        rest += [row, Row(f"best trivial · {part.name}", tuple(best), row.n, 0, 0, "baseline")]
    common = {"metrics": metrics, "interval": interval, "settings": settings, "note": benchmark.note}
    made = [Table(benchmark.name, benchmark.title, rows=tuple(main), **common)]
    if rest:
        title = f"{benchmark.title}: parts, each beside the best of {', '.join(beside)} in every metric"
        made.append(Table(f"{benchmark.name}_parts", title, rows=tuple(rest), **common))
    return made


def baseline_rows(beside: Mapping[str, Mapping[str, Part]], part: str, metrics: Sequence[Metric]) -> list[Row]:
    """Lines of the baselines that answer every question of a part; those with the same numbers share one."""
    names: dict[tuple, list[str]] = defaultdict(list)
    for name, of in beside.items():
        if part in of:
            names[int(of[part].members_N.sum()), estimates(of[part], metrics, interval=False)].append(name)
    alike = {
        key: found[0] if len(found) == 1 else f"{found[0]} (and {len(found) - 1} alike)" for key, found in names.items()
    }
    return [Row(f"{alike[n, values]} · {part}", values, n, 0, 0, "baseline") for n, values in names]


def estimates(part: Part, metrics: Iterable[Metric], interval: bool = True) -> tuple[Estimate | None, ...]:
    found = [estimate(part.values[m.name]) if m.name in part.values else None for m in metrics]
    return tuple(found) if interval else tuple(e and Estimate(e.value) for e in found)


def counts(part: Part, judgements: Sequence[Judgement]) -> dict[str, int]:
    outcomes = Counter(judgements[i].outcome for i in np.nonzero(part.members_N)[0])
    return {
        "n": int(part.members_N.sum()),
        "failures": sum(outcomes[outcome] for outcome in FAILURES),
        "malformed": outcomes["malformed"] + outcomes["no_option"],
    }


def _numbers(part: Part) -> dict[str, Any]:
    found = {name: estimate(values) for name, values in part.values.items()}
    return {name: e and {"value": e.value, "ci": [e.low, e.high]} for name, e in found.items()}


# ---------------------------------------------------------------- measures


def values_of(judgements: Sequence[Judgement], mark: str | None = None) -> np.ndarray:
    """Accuracy of every judgement, or a judge's mark, 0 where there is none; shape [N]."""
    return np.array([j.value if mark is None else j.marks.get(mark, 0.0) for j in judgements], float)


def masks(judgements: Sequence[Judgement], key: str) -> dict[str, np.ndarray]:
    """Members of each value of the extra `key`, by name; bool [N] each."""
    groups = np.array([str(j.sample.extras.get(key, "")) for j in judgements], dtype=object)
    return {name: groups == name for name in sorted(set(groups.tolist())) if name}


def means(
    columns: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], resamples: Resamples
) -> dict[str, dict[str, np.ndarray]]:
    """Group -> column -> mean over its members, [1 + R]."""
    stacked = np.stack(list(groups.values()), axis=1)
    by_column = {name: resamples.means(values, stacked) for name, values in columns.items()}
    return {group: {name: found[:, g] for name, found in by_column.items()} for g, group in enumerate(groups)}


def grouped(
    columns: Mapping[str, np.ndarray],
    judgements: Sequence[Judgement],
    resamples: Resamples,
    keys: Sequence[str] = (),
    macro: str | None = None,
) -> list[Part]:
    """Means of per-item columns: over all, as unweighted mean over the groups of `macro`, and for each group of `keys`.

    Args:
        macro: extra whose groups are averaged without weights (official for some); None: none.
    """
    all_N = np.ones(len(judgements), bool)
    over_all = means(columns, {"all": all_N}, resamples)["all"]
    parts = [Part("over questions", all_N, over_all, overall=True)]
    for key in dict.fromkeys([*([macro] if macro else []), *keys]):
        groups = masks(judgements, key)
        if not groups:
            continue
        found = means(columns, groups, resamples)
        if key == macro:
            mean = {name: over_groups([of[name] for of in found.values()]) for name in columns}
            parts.insert(0, Part(f"mean over {len(groups)} {macro}s", all_N, mean, overall=True))
        parts += [Part(f"{key}: {name}", groups[name], found[name]) for name in groups]
    return parts


# ---------------------------------------------------------------- baselines


def option_baselines(samples: Sequence[Sample]) -> Baselines:
    """Always each option (by text where all samples offer the same texts, else by letter), and the majority per type.

    The majority is that of the test labels themselves within `extras["type"]`: what a model could gain by knowing the
    label prior. Yes/No constants also carry a constant score, whose average precision is the prevalence.
    """
    asked = [sample for sample in samples if sample.task in BY_OPTION]
    if not asked:
        return {}
    same = len({frozenset(sample.options) for sample in asked}) == 1
    constants = sorted(asked[0].options) if same else ascii_uppercase[: max(len(s.options) for s in asked)]
    found: Baselines = {}
    for constant in constants:
        said = answers({sample.id: constant for sample in asked})
        if constant.casefold() in ("yes", "no"):
            for prediction in said.values():
                prediction.p_yes = float(constant.casefold() == "yes")
        found[f"always {constant}"] = said
    by_type: dict[str, Counter] = defaultdict(Counter)
    for sample in asked:
        by_type[_type(sample)][sample.answer_text if same else sample.answer] += 1
    if len(by_type) > 1 or not same:
        # Ties go to the first in alphabetical order.
        majority = {kind: min(counts, key=lambda a: (-counts[a], a)) for kind, counts in by_type.items()}
        found["majority per type"] = answers({sample.id: majority[_type(sample)] for sample in asked})
    return found


def with_texts(samples: Sequence[Sample]) -> Baselines:
    """`option_baselines`, each with the most frequent right answer for the questions without options."""
    rest = [sample for sample in samples if sample.task not in BY_OPTION]
    common = Counter(sample.answer for sample in rest)
    text = answers({sample.id: min(common, key=lambda a: (-common[a], a)) for sample in rest})
    return {name: said | text for name, said in (option_baselines(samples) or {"most frequent answer": {}}).items()}


def _type(sample: Sample) -> str:
    """What kind of question it is; official names of the key differ."""
    return str(
        next((sample.extras[key] for key in ("type", "primitive", "skill") if key in sample.extras), sample.task)
    )


# ---------------------------------------------------------------- labels


def make_sample(where: str, **fields: Any) -> Sample:
    """A sample from a label record; `where` names file and record in the error."""
    try:
        return Sample.model_validate(fields | {"split": "test"})
    except ValidationError as error:
        first = error.errors()[0]
        raise LabelError(f"{where}: {'.'.join(map(str, first['loc'])) or 'record'}: {first['msg']}") from error


def need(record: Mapping[str, Any], key: str, where: str) -> Any:
    """A field of a record that must be there."""
    if not isinstance(record, Mapping) or key not in record:
        raise LabelError(f"{where}: {key}: missing; is this the benchmark's own label file?")
    return record[key]


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: no JSON ({error})") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON list, JSON Lines, CSV, TSV or Parquet file, by its suffix."""
    if not path.exists():
        raise LabelError(f"{path}: no such label file")
    try:
        rows = _rows_of(path)
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: no text in UTF-8 ({error})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise LabelError(f"{path}: must hold a list of records, and at least one")
    return rows


def _rows_of(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_json(path)
    if suffix == ".jsonl":
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise LabelError(f"{path}:{number}: no JSON ({error.msg})") from error
        return rows
    if suffix in (".csv", ".tsv"):
        csv.field_size_limit(1 << 24)
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="," if suffix == ".csv" else "\t"))
    if suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    raise LabelError(f"{path}: cannot read {suffix or 'a file without a suffix'}; give json, jsonl, csv, tsv, parquet")


def no_parts(only: Sequence[str] | None) -> None:
    """Raise LabelError where parts are named of a benchmark that has none, instead of scoring all of it."""
    if only:
        raise LabelError(f"only={','.join(only)}: this benchmark has no parts to choose from; leave only=... out")


def from_source(source: Source, path: Path) -> list[Sample]:
    """Samples of a published file by its reader in `data_tools.sources`; here a bad record is an error.

    Raises:
        LabelError: naming file, record and field.
    """
    samples = []
    try:
        for item in source.items(path):
            where = f"{item.file}: record {item.place}"
            if isinstance(item.content, RecordError):
                raise LabelError(f"{where}: {item.content}")
            try:
                fields = source.record.model_validate(item.content).fields(item)
            except ValidationError as error:
                raise LabelError(f"{where}: {first_fault(error)}") from error
            except RecordError as error:
                raise LabelError(f"{where}: {error}") from error
            # The same id that `python -m launch.data` gives a record without one of its own.
            fields.setdefault("id", f"{item.file.stem}-{item.place}")
            samples.append(make_sample(where, **fields, source=source.name))
    except SourceError as error:
        raise LabelError(str(error)) from error
    return samples


def choice_sample(where: str, options: Sequence[str], answer: Any, **fields: Any) -> Sample:
    """A sample by options (lettered or not) and its right answer: a letter, a text, or an index.

    Full stops after options are left out: an answer is the same option with and without.
    """
    options = [str(option).strip() for option in options]
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = ascii_uppercase[answer] if 0 <= answer < len(options) else str(answer)
    elif str(answer).strip() in options:
        answer = ascii_uppercase[options.index(str(answer).strip())]
    plain = [option.rstrip(".") or option for option in options]
    try:
        return make_sample(
            where, **by_option(plain if len(set(plain)) == len(plain) else options, str(answer)) | fields
        )
    except RecordError as error:
        raise LabelError(f"{where}: {error}") from error


async def ask_each(
    judgements: Sequence[Judgement], one: Callable[[Judgement], Awaitable[dict[str, float] | None]]
) -> list[Judgement]:
    """Judgements with the marks that `one` gives, all asked at once (the judge bounds its own concurrency).

    Those without an answer are not asked. None is a verdict that could not be had: `unjudged`, counted as wrong.
    """

    async def marked(j: Judgement) -> Judgement:
        if not j.answer or j.outcome in ("failed", "missing", "malformed"):
            return replace(j, marks={ASKED: 1.0})
        marks = await one(j)
        if marks is None:
            return replace(j, outcome="unjudged", reason="the judge gave no verdict", value=0.0, marks={ASKED: 1.0})
        outcome = "right" if marks.get("value", j.value) >= RIGHT else "wrong"
        return replace(j, outcome=outcome, reason=None, value=marks.get("value", j.value), marks=marks | {ASKED: 1.0})

    return list(await asyncio.gather(*map(marked, judgements)))


def is_samples(path: Path) -> bool:
    """Whether a file holds our own samples, so that any benchmark can be scored on them."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as lines:
        try:
            Sample.model_validate_json(next(lines, b""))
        except ValidationError:
            return False
    return True


def read_labels(benchmark: Benchmark, path: Path, only: Sequence[str] | None = None) -> list[Sample]:
    """Samples of a benchmark's labels: its official files, or our own samples made from them (`samples=`).

    Raises:
        LabelError, SampleError: naming file, record and field.
    """
    if not path.exists():
        raise LabelError(f"{path}: no such label file or folder")
    if is_samples(path) and benchmark.name != "samples":
        if only:
            raise LabelError(
                f"only=...: {path} holds samples, from which it cannot choose; give the benchmark's own files"
            )
        samples = list(read_samples(path))
    else:
        samples = benchmark.read(path, only)
    if not samples:
        raise LabelError(f"{path}: holds no label" + (f" of {', '.join(only)}" if only else ""))
    twice = [id for id, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise SampleError(f"{path}: id {twice[0]!r} stands twice")
    return samples

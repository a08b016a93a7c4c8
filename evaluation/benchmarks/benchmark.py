"""What a benchmark is: label files -> samples, graded answers -> numbers, and the trivial baselines."""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sample import Sample, SampleError, read_samples
from evaluation.benchmarks.labels import LabelError, is_samples, oddities
from evaluation.grading import PLAIN, Counts, Graded, Reader, Schema, counts, grade_all
from evaluation.measures.bootstrap import Estimate, Resamples, estimate
from evaluation.predictions import Prediction
from evaluation.table import Metric, Row, Table
from rewards.judges.protocol import Judge

Baselines = dict[str, dict[str, Prediction]]
MICRO = "micro: over questions"


@dataclass(frozen=True)
class Part:
    """Numbers of one line of a table: all questions in some average, or a part of them.

    Attributes:
        members_N: bool, the graded responses that it covers.
        values: metric name -> [1 + R]; row 0 is the value, the others are resamples.
        overall: whether the main table shows it, beside the baselines.
    """

    name: str
    members_N: np.ndarray
    values: Mapping[str, np.ndarray]
    overall: bool = False


Measure = Callable[[Sequence[Graded], Resamples], list[Part]]
Ask = Callable[[Sequence[Graded], Judge], Awaitable[list[Graded]]]


@dataclass(frozen=True)
class Before:
    """A number that compares with predictions made without the video (`before=` of evaluation.score).

    Attributes:
        key: of scores.json.
        measure: responses without the video, with it, seed of the bootstrap -> [1 + R].
    """

    key: str
    title: str
    measure: Callable[[Sequence[Graded], Sequence[Graded], int], np.ndarray]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. A module of this folder that holds one at its top level has registered it.

    Attributes:
        sources: of the samples that it scores (`Sample.source`); empty: any.
        read: label file or folder, names of the parts to keep (None: all must be present) -> samples.
        metrics: its columns, in order. One that no part has a value for is left out.
        measure: graded responses in the order of the samples -> lines, those over all questions first.
        baselines: samples -> name -> predictions that need no model.
        clusters: what the bootstrap draws for each sample: its video, or the two of a pair.
        ask: asks the judge what rules cannot grade; None where rules suffice.
        needs_judge: without a judge there is no number at all.
        before: what predictions without the video add; None for most.
        note: deviations from the official scorer, and what has another name there.
        schema: of responses when the user names none.
        official: reads responses as the publisher's script does; None where it has no rule for texts.
        extras: keys of a sample's extras that it reads.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    read: Callable[[Path, Sequence[str] | None], list[Sample]]
    metrics: tuple[Metric, ...]
    measure: Measure
    baselines: Callable[[Sequence[Sample]], Baselines]
    clusters: Callable[[Sequence[Sample]], Sequence[str | tuple[str, str]]] = lambda samples: [s.shown for s in samples]
    ask: Ask | None = None
    needs_judge: bool = False
    before: Before | None = None
    note: str = ""
    schema: str = PLAIN
    official: Reader | None = None
    extras: tuple[str, ...] = ()

    def accepts(self, sample: Sample) -> bool:
        """Whether it scores samples of this one's source."""
        return not self.sources or sample.source in self.sources

    def require(self, samples: Iterable[Sample]) -> None:
        """Refuse samples that it does not score.

        Raises:
            LabelError: one is of another source, or lacks an extra that the benchmark reads.
        """
        for sample in samples:
            if not self.accepts(sample):
                raise LabelError(
                    f"sample {sample.id!r}: source: {self.name} scores samples of {' and '.join(self.sources)}, not of "
                    f"{sample.source!r}; benchmark=samples scores any"
                )
            if lacking := [key for key in self.extras if key not in sample.extras]:
                raise LabelError(f"sample {sample.id!r}: extras: {self.name} needs {', '.join(lacking)}")

    def own(self, samples: Iterable[Sample]) -> "Chosen":
        """The samples of its sources, out of those of several sets.

        Raises:
            LabelError: there is none, or one lacks an extra that the benchmark reads.
        """
        chosen: list[Sample] = []
        others: Counter[str] = Counter()
        for sample in samples:
            if self.accepts(sample):
                chosen.append(sample)
            else:
                others[sample.source] += 1
        if not chosen:
            raise LabelError(
                f"{self.name} scores samples of {' and '.join(self.sources)}; the labels hold samples of "
                f"{', '.join(others)} only: benchmark=samples scores any"
            )
        self.require(chosen)
        return Chosen(chosen, dict(others))


@dataclass(frozen=True)
class Chosen:
    """Samples that a benchmark scores, and how many of each other source were left out."""

    samples: list[Sample]
    left_out: dict[str, int]

    def __str__(self) -> str:
        """What was left out, for people."""
        count = len(self.samples)
        others = ", ".join(f"{number} of {source}" for source, number in self.left_out.items())
        return f"{count + sum(self.left_out.values())} samples = {count} scored + {others}"


@dataclass(frozen=True)
class Reading:
    """Responses as one reader reads them (`official` or `strict`), and their numbers."""

    name: str
    graded: list[Graded]
    parts: list[Part]

    def scores(self) -> dict[str, dict[str, Any]]:
        return part_scores(self.parts, self.graded)


@dataclass(frozen=True)
class Result:
    """Numbers and tables of one prediction file, and the trivial baselines beside it: name -> part name -> numbers.

    Attributes:
        readings: by one reader, or by the official and the strict one; the first gives the numbers.
    """

    benchmark: Benchmark
    readings: list[Reading]
    tables: list[Table]
    baselines: Mapping[str, Mapping[str, Part]]

    @property
    def graded(self) -> list[Graded]:
        return self.readings[0].graded

    @property
    def parts(self) -> list[Part]:
        return self.readings[0].parts

    def scores(self) -> dict[str, dict[str, Any]]:
        return self.readings[0].scores()


def part_scores(parts: Iterable[Part], graded: Sequence[Graded]) -> dict[str, dict[str, Any]]:
    """Part -> metric -> value and interval, with counts; ready for JSON."""
    return {part.name: {**vars(part_counts(part, graded)), **_numbers(part)} for part in parts}


async def evaluate(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    *,
    settings: str,
    schema: Schema | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    official: bool = False,
) -> Result:
    """Score predictions by their schema; or by the benchmark's official reader, with the strict numbers beside.

    Raises:
        LabelError: samples that the benchmark does not score.
        JudgeError: the judge could not answer.
    """
    benchmark.require(samples)
    resamples = Resamples(benchmark.clusters(samples), seed)
    readings = []
    for name, read in {"official": benchmark.official, "strict": None}.items():
        if name == "official" and not official:
            continue
        graded = grade_all(samples, predictions, schema or benchmark.schema, read)
        if benchmark.ask and judge:
            graded = await benchmark.ask(graded, judge)
        readings.append(Reading(name, graded, benchmark.measure(graded, resamples)))
    baselines = await trivial(benchmark, samples, judge)
    noted = replace(benchmark, note=". ".join(filter(None, (benchmark.note, oddities(samples)))))
    made = tables(noted, readings, baselines, resamples.caption(), settings)
    return Result(benchmark, readings, made, baselines)


async def trivial(
    benchmark: Benchmark, samples: Sequence[Sample], judge: Judge | None = None
) -> dict[str, dict[str, Part]]:
    """Baseline -> part name -> numbers without intervals, of the parts in which the baseline answers every question."""
    once = Resamples(benchmark.clusters(samples), count=0)
    found = {}
    for name, said in benchmark.baselines(samples).items():
        graded = grade_all(samples, said, PLAIN)
        if benchmark.ask and judge:
            graded = await benchmark.ask(graded, judge)
        answered = np.array([sample.id in said for sample in samples])
        parts = benchmark.measure(graded, once)
        found[name] = {part.name: part for part in parts if answered[part.members_N].all()}
    return found


def tables(
    benchmark: Benchmark,
    readings: Sequence[Reading],
    baselines: Mapping[str, Mapping[str, Part]],
    interval: str,
    settings: str,
) -> list[Table]:
    """Main table (all questions, every baseline) and, where there are parts, one of them with the best baseline.

    Of two readers both stand in the main table, by name; the parts are by the first.
    """
    parts, graded = readings[0].parts, readings[0].graded
    metrics = tuple(m for m in benchmark.metrics if any(m.name in part.values for part in parts))
    main, rest = [], []
    for place, part in enumerate(parts):
        row = result_row(part.name, part, metrics, graded)
        if part.overall:
            for by in readings:
                name = f"{part.name} · {by.name}" if len(readings) > 1 else part.name
                main.append(result_row(name, by.parts[place], metrics, by.graded))
            main += baseline_rows(baselines, part.name, metrics)
            continue
        best = []
        for metric in metrics:
            options = [estimates(of[part.name], (metric,), False)[0] for of in baselines.values() if part.name in of]
            values = [value for value in options if value]
            best.append(max(values, key=lambda value: value.value, default=None))
        rest += [row, Row(f"best trivial · {part.name}", tuple(best), row.n, 0, 0, "baseline")]
    made = [Table(benchmark.name, benchmark.title, metrics, tuple(main), interval, settings, benchmark.note)]
    if rest:
        title = f"{benchmark.title}: parts, each with the best of {', '.join(baselines)} in every metric"
        name = f"{benchmark.name}_parts"
        made.append(Table(name, title, metrics, tuple(rest), interval, settings, benchmark.note))
    return made


def baseline_rows(baselines: Mapping[str, Mapping[str, Part]], part: str, metrics: Sequence[Metric]) -> list[Row]:
    """Lines of the baselines that answer every question of a part; those with the same numbers share one."""
    names: dict[tuple[int, tuple[Estimate | None, ...]], list[str]] = defaultdict(list)
    for name, parts in baselines.items():
        if part in parts:
            found = int(parts[part].members_N.sum()), estimates(parts[part], metrics, interval=False)
            names[found].append(name)
    return [Row(f"{shared_label(alike)} · {part}", values, n, 0, 0, "baseline") for (n, values), alike in names.items()]


def shared_label(names: Sequence[str]) -> str:
    """One label for baselines with the same numbers."""
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} alike)"


def estimates(part: Part, metrics: Iterable[Metric], interval: bool = True) -> tuple[Estimate | None, ...]:
    found = [estimate(part.values[m.name]) if m.name in part.values else None for m in metrics]
    return tuple(found) if interval else tuple(e and Estimate(e.value) for e in found)


def part_counts(part: Part, graded: Sequence[Graded]) -> Counts:
    return counts(graded[i] for i in np.nonzero(part.members_N)[0])


def result_row(name: str, part: Part, metrics: Iterable[Metric], graded: Sequence[Graded]) -> Row:
    """The line of a part, with its intervals and counts."""
    found = part_counts(part, graded)
    return Row(name, estimates(part, metrics), found.n, found.failures, found.malformed)


def difference(before: Part, after: Part) -> Part:
    """`after` minus `before`, paired: both are of the same questions and resamples, so what makes a clip hard cancels.

    Raises:
        ValueError: the parts cover different questions.
    """
    if not np.array_equal(before.members_N, after.members_N):
        raise ValueError("a difference needs two models that answered the same questions")
    shared = [name for name in before.values if name in after.values]
    values = {name: after.values[name] - before.values[name] for name in shared}
    return Part(after.name, after.members_N, values, after.overall)


def _numbers(part: Part) -> dict[str, Any]:
    found = {name: estimate(values) for name, values in part.values.items()}
    return {name: e and {"value": e.value, "ci": [e.low, e.high]} for name, e in found.items()}


def read_labels(benchmark: Benchmark, path: Path, only: Sequence[str] | None = None) -> list[Sample]:
    """Samples of a benchmark's labels: its official files, or the project's samples made from them (`samples=`).

    Raises:
        LabelError, SampleError: naming file, record and field.
    """
    if not path.exists():
        raise LabelError(f"{path}: no such label file or folder")
    if is_samples(path) and benchmark.name != "samples":
        if only:
            raise LabelError(
                f"only=...: {path} holds samples, so parts cannot be chosen; give the benchmark's own files"
            )
        samples = list(read_samples(path))
    else:
        samples = benchmark.read(path, only)
    if not samples:
        raise LabelError(f"{path}: no label" + (f" of {', '.join(only)}" if only else ""))
    twice = [id for id, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise SampleError(f"{path}: duplicate id {twice[0]!r}")
    return samples

"""The official numbers of evaluation sets: one page of results, and the tables of each set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluation.benchmarks.benchmark import shared_label
from evaluation.benchmarks.samples import SAMPLES
from evaluation.comparison import comparison_tables
from evaluation.measures.bootstrap import Estimate
from evaluation.report.load import SetInputs
from evaluation.runs import Model
from evaluation.table import Metric, Row, Table, settings_hash, shown_value


def headline(chosen: SetInputs) -> tuple[str, Metric] | None:
    """The part and the metric shown for a set: the first of its benchmark. None without an official score."""
    found = [model.scores["official"] for model in chosen.models]
    if None in found:
        return None
    part = next(iter(found[0]))
    metrics = [metric for metric in chosen.benchmark.metrics if any(of[part].get(metric.name) for of in found)]
    return (part, metrics[0]) if metrics else None


def official(model: Model, part: str, metric: str) -> Estimate | None:
    """A number of the set's benchmark."""
    found = ((model.scores["official"] or {}).get(part) or {}).get(metric)
    return found and Estimate(found["value"], *found["ci"])


def pair_accuracy(model: Model) -> Estimate | None:
    """Of a model whose questions were asked again about turned clips."""
    value = model.scores["pair_accuracy"]
    return None if value is None else Estimate(value, *model.scores["pair_accuracy_ci"])


def baselines(chosen: SetInputs, part: str) -> dict[str, Mapping[str, float]]:
    """Trivial baseline -> metric -> number, of those that answer all questions of a part."""
    recorded = chosen.models[0].scores["official_baselines"]
    return {name: parts[part] for name, parts in recorded.items() if part in parts}


def best_baseline(chosen: SetInputs, part: str, metric: str) -> tuple[str, Estimate] | None:
    found = {name: of[metric] for name, of in baselines(chosen, part).items() if of.get(metric) is not None}
    if not found:
        return None
    best = max(found, key=lambda name: found[name])
    return best, Estimate(found[best])


def results(sets: Sequence[SetInputs]) -> list[dict[str, Any]]:
    """A line per set for the page: its main number by model, the best trivial baseline, and what was not asked."""
    lines = []
    for chosen in sets:
        first = chosen.models[0].scores
        line: dict[str, Any] = {
            "set": chosen.name,
            "title": chosen.benchmark.title,
            "n": first["n"],
            "without_video": chosen.without_video,
            "missing": first["official_missing"],
            "judge": chosen.judge,
        }
        if number := headline(chosen):
            part, metric = number
            best = best_baseline(chosen, part, metric.name)
            shown = {m.key: shown_value(official(m, part, metric.name), metric) for m in chosen.models}
            trivial = f"{shown_value(best[1], metric)} {best[0]}" if best else "–"
            line |= {"metric": metric.name, "part": part, "values": shown, "trivial": trivial}
        lines.append(line)
    return lines


def results_table(sets: Sequence[SetInputs], settings: Any) -> Table | None:
    """The main number of every set and model; None where no set has an official score."""
    mains = [(chosen, *found) for chosen in sets if (found := headline(chosen))]
    if not mains:
        return None
    averaged: dict[tuple[str, float], list[str]] = {}
    for _, _, metric in mains:
        averaged.setdefault((metric.name, metric.scale), []).append(metric.averaging)
    metrics = [Metric(name, "; ".join(dict.fromkeys(how)), scale) for (name, scale), how in averaged.items()]
    paired = any(pair_accuracy(model) for chosen in sets for model in chosen.models)
    metrics += [metric for metric in SAMPLES.metrics if paired and metric.name == "pair accuracy"]
    rows = []
    for chosen, part, main in mains:
        place = [(metric.name, metric.scale) for metric in metrics].index((main.name, main.scale))
        nothing: list[Estimate | None] = [None] * len(metrics)
        for model in chosen.models:
            of, values = model.scores["official"][part], nothing[:-1] + [pair_accuracy(model)] if paired else nothing[:]
            values[place] = official(model, part, main.name)
            rows.append(Row(f"{chosen.name} · {model.name}", tuple(values), of["n"], of["failures"], of["malformed"]))
        if best := best_baseline(chosen, part, main.name):
            label, values = f"{chosen.name} · best trivial: {best[0]}", nothing[:]
            values[place] = best[1]
            rows.append(Row(label, tuple(values), rows[-1].n, 0, 0, "baseline"))
    title = "Results: the main number of each set"
    interval = mains[0][0].measured.resamples
    caption = f"95 % percentile bootstrap over the videos of each set, {interval.count} resamples, seed {interval.seed}"
    return Table("results", title, tuple(metrics), tuple(rows), caption, settings_hash({"results": settings}))


def official_tables(chosen: SetInputs, settings: str) -> list[Table]:
    """The set's benchmark: its first part, then the others, then paired differences of models (where rules grade)."""
    found, benchmark = [model.scores["official"] for model in chosen.models], chosen.benchmark
    if None in found:
        return []
    first, *others = found[0]
    metrics = tuple(m for m in benchmark.metrics if any(part.get(m.name) for of in found for part in of.values()))
    note = benchmark.note + (f". Judge: {chosen.judge}" if chosen.judge else "")
    interval = chosen.measured.resamples.caption()

    def table(name: str, title: str, rows: Sequence[Row]) -> Table:
        return Table(f"{chosen.name}_{name}", title, metrics, tuple(rows), interval, settings, note)

    made = [
        table(benchmark.name, benchmark.title, [*_models(chosen, first, metrics), *_trivial(chosen, first, metrics)])
    ]
    if others:
        rows = [row for part in others for row in (*_models(chosen, part, metrics), _best(chosen, part, metrics))]
        title = f"{benchmark.title}: parts, each with the best trivial baseline in every metric"
        made.append(table(f"{benchmark.name}_parts", title, rows))
    if chosen.official:
        for difference in comparison_tables(benchmark, chosen.official, settings)[1:]:
            made.append(replace(difference, name=f"{chosen.name}_{benchmark.name}_differences"))
    return made


def _models(chosen: SetInputs, part: str, metrics: Sequence[Metric]) -> list[Row]:
    rows = []
    for model in chosen.models:
        of, values = model.scores["official"][part], (official(model, part, metric.name) for metric in metrics)
        rows.append(Row(f"{model.name} · {part}", tuple(values), of["n"], of["failures"], of["malformed"]))
    return rows


def _trivial(chosen: SetInputs, part: str, metrics: Sequence[Metric]) -> list[Row]:
    """The baselines of a part; those with the same numbers share a line."""
    names: dict[tuple[float | None, ...], list[str]] = {}
    for name, of in baselines(chosen, part).items():
        names.setdefault(tuple(of.get(metric.name) for metric in metrics), []).append(name)
    n = chosen.models[0].scores["official"][part]["n"]
    return [
        Row(
            f"{shared_label(alike)} · {part}",
            tuple(None if value is None else Estimate(value) for value in values),
            n,
            0,
            0,
            "baseline",
        )
        for values, alike in names.items()
    ]


def _best(chosen: SetInputs, part: str, metrics: Sequence[Metric]) -> Row:
    best = [best_baseline(chosen, part, metric.name) for metric in metrics]
    n = chosen.models[0].scores["official"][part]["n"]
    return Row(f"best trivial · {part}", tuple(value and value[1] for value in best), n, 0, 0, "baseline")

"""Metrics that several benchmarks share."""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.benchmarks.benchmark import Measure, Part
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples, over_groups


def values_of(graded: Sequence[Graded], mark: str | None = None) -> np.ndarray:
    """Accuracy of every response, or a judge's mark, 0 where there is none; shape [N]."""
    return np.array([j.value if mark is None else j.marks.get(mark, 0.0) for j in graded], float)


def masks(graded: Sequence[Graded], key: str) -> dict[str, np.ndarray]:
    """Members of each value of the extra `key`, by name; bool [N] each."""
    groups = np.array([str(j.sample.extras.get(key, "")) for j in graded], dtype=object)
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
    graded: Sequence[Graded],
    resamples: Resamples,
    keys: Sequence[str] = (),
    macro: str | None = None,
) -> list[Part]:
    """Means of per-item columns: over all, as unweighted mean over the groups of `macro`, and for each group of `keys`.

    Args:
        macro: extra whose groups are averaged without weights (official for some); None: none.
    """
    all_N = np.ones(len(graded), bool)
    over_all = means(columns, {"all": all_N}, resamples)["all"]
    parts = [Part("over questions", all_N, over_all, overall=True)]
    for key in dict.fromkeys([*([macro] if macro else []), *keys]):
        groups = masks(graded, key)
        if not groups:
            continue
        found = means(columns, groups, resamples)
        if key == macro:
            mean = {name: over_groups([of[name] for of in found.values()]) for name in columns}
            parts.insert(0, Part(f"mean over {len(groups)} {macro}s", all_N, mean, overall=True))
        parts += [Part(f"{key}: {name}", groups[name], found[name]) for name in groups]
    return parts


def by_accuracy(keys: Sequence[str] = (), macro: str | None = None) -> Measure:
    """Accuracy over questions, as unweighted mean over the groups of `macro`, and in each group of `keys`."""

    def measure(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
        return grouped({"accuracy": values_of(graded)}, graded, resamples, keys, macro)

    return measure

"""A few of a user's own samples, drawn so that every task is among them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_tools.labels import LabelFile, read_split
from data_tools.sample import Sample, write_samples

SIZES: Mapping[str, int] = {"sft": 64, "rl": 32, "test": 24}  # samples of a split at most


def write(folder: Path, labels: Mapping[str, Sequence[LabelFile]], seed: int = 0) -> dict[str, Path]:
    """Write `folder`/<split>.jsonl of each split that has label files; the files.

    Raises:
        SampleError, SourceError: a bad label file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (split, files) in enumerate(labels.items()):
        rng = np.random.default_rng([seed, number])
        found[split] = folder / f"{split}.jsonl"
        write_samples(found[split], some(list(read_split(files, split)), SIZES[split], rng))
    return found


def some(samples: Sequence[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    """`count` samples in their order, as many of each task as there are, taking turns."""
    of_task: dict[str, list[int]] = defaultdict(list)
    for place in rng.permutation(len(samples)).tolist():
        of_task[samples[place].task].append(place)
    turns = sorted((turn, place) for places in of_task.values() for turn, place in enumerate(places))
    return [samples[place] for place in sorted(place for _, place in turns[:count])]

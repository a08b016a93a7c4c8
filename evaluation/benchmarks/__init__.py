"""Benchmarks by name: readers of the published labels, official metrics, trivial baselines.

A benchmark is a `Benchmark` at the top level of any module of this folder; nothing else has to name it.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from pkgutil import iter_modules

from data_tools.sample import PICTURES, Sample
from evaluation.benchmarks.benchmark import Benchmark, Result, evaluate, read_labels
from evaluation.benchmarks.labels import LabelError
from evaluation.grading import PLAIN

NO_VIDEO = ("", *PICTURES)  # endings of what is no video file
BENCHMARKS: dict[str, Benchmark] = {
    value.name: value
    for found in iter_modules(__path__)
    for value in vars(import_module(f"{__name__}.{found.name}")).values()
    if isinstance(value, Benchmark)
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        LabelError: there is none.
    """
    if name not in BENCHMARKS:
        raise LabelError(f"benchmark={name}: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def benchmark_for(source: str) -> Benchmark:
    """The official benchmark of a sample's source; `samples`, which scores any, where there is none."""
    return next((b for b in BENCHMARKS.values() if source in b.sources), BENCHMARKS["samples"])


def chosen_reader(benchmark: Benchmark, schema: str, named: str | None = None) -> str:
    """`official` or `strict`: the one named; else official for untagged responses, where the publisher has a rule.

    Raises:
        LabelError: `official` is named, and the publisher has no rule.
    """
    if named == "official" and benchmark.official is None:
        others = ", ".join(b.name for b in BENCHMARKS.values() if b.official)
        raise LabelError(f"reader=official: the publisher of {benchmark.name} has no rule for texts; {others} have one")
    return named or ("official" if schema == PLAIN and benchmark.official else "strict")


def require_videos(samples: Sequence[Sample]) -> None:
    """Refuse questions about a video that no clip can be made for; one with a rate of pictures is a folder of them.

    Raises:
        LabelError: with their number.
    """
    named = [s for s in samples if s.video is not None and s.fps is None]
    without = [s for s in named if PurePosixPath(s.video or "").suffix.lower() in NO_VIDEO]
    if without:
        raise LabelError(
            f"{len(without)} of {len(samples)} questions name no video file, {without[0].id!r} first "
            f"({without[0].video!r}): an id, or a folder of frames without fps. Only video files, frames and "
            f"images can be asked about: keep the parts of the benchmark that have them with only=..."
        )


def set_samples(name: str, path: Path, only: Sequence[str] | None = None, folder: str = "") -> list[Sample]:
    """The questions of a benchmark's official files, ready for their clips to be made; `read_labels` for scoring alone.

    Args:
        only: names of the parts to keep; None: all must be there.
        folder: where the benchmark's videos lie under the media root; put before the published paths.

    Raises:
        LabelError, SampleError: no such benchmark or file, a bad record, or a question that is about no video file.
    """
    samples = read_labels(benchmark_named(name), path, only)
    require_videos(samples)
    return [_under(folder, sample) for sample in samples]


def _under(folder: str, sample: Sample) -> Sample:
    """The sample with the folder before the paths of what it shows."""
    paths = [str(PurePosixPath(folder, name)) for name in sample.frames or sample.media]
    return sample.model_copy(update={sample.shows: paths[0] if sample.shows == "video" else paths})


__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "LabelError",
    "Result",
    "benchmark_for",
    "benchmark_named",
    "chosen_reader",
    "evaluate",
    "read_labels",
    "require_videos",
    "set_samples",
]

"""What the benchmarks of temporal grounding share: when in the clip does it happen?"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_tools.files import read_lines
from data_tools.sample import Sample
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.labels import (
    LabelError,
    from_source,
    literal,
    make_sample,
    need,
    no_parts,
    of_kind,
    read_json,
    read_rows,
)
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.predictions import Prediction, answers
from evaluation.table import Metric

_NOTE = (
    "official: VideoChat-R1's script takes the last 'a to b' of the whole text, lmms-eval's reads 'a - b' as well; "
    "strict: the answer must be a span, several count as their union. A response without a span counts 0"
)
# VideoChat-R1's script and, where it finds nothing, what lmms-eval's reads besides.
_SPANS = (r"(\d+\.?\d*) (?:to|and) (\d+\.?\d*)", r"(\d+(?:\.\d+)?) ?s? ?(?:to|-|–) ?(\d+(?:\.\d+)?)")


def read_officially(response: str, sample: Sample) -> str:
    """The last "12.5 to 17.8" of the whole response, also with "and" or a dash.

    Example:
        >>> sample = _moment("x", "charades_sta", "1", "a.mp4", "a man sits", [12.5, 17.8])
        >>> read_officially("Perhaps 3 - 4 s. The event happens in the 12.5 - 17.8 seconds.", sample)
        '12.5 to 17.8'
    """
    found = next(filter(None, (re.findall(pattern, response) for pattern in _SPANS)), None)
    return "{} to {}".format(*found[-1]) if found else ""


def _reader(name: str) -> Callable[[Path, Sequence[str] | None], list[Sample]]:
    def read(path: Path, only: Sequence[str] | None) -> list[Sample]:
        """VideoChat-R1's JSON by video, the hub's rows (video, caption, timestamp), or TALL's text lines."""
        no_parts(only)
        if path.suffix == ".txt":
            return _tall(path, name)
        if path.suffix != ".json" or isinstance(read_json(path), list):
            return _rows(path, name)
        return from_source(name, path)

    return read


def _moment(where: str, name: str, id: str, video: str, sentence: str, span: list[float]) -> Sample:
    event = sentence.strip().lower().removesuffix(".")
    return make_sample(
        where,
        id=id,
        video=video if "." in video else f"{video}.mp4",
        question=f'When does this happen: "{event}"? Give start and end in seconds.',
        task="temporal_grounding",
        spans=[span],
        source=name,
    )


def _rows(path: Path, name: str) -> list[Sample]:
    samples = []
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        video, caption = need(row, "video", where, str), need(row, "caption", where, str)
        seconds = literal(need(row, "timestamp", where), list, f"{where}: timestamp")
        span = [float(of_kind(second, int | float, f"{where}: timestamp")) for second in seconds]
        samples.append(_moment(where, name, f"{Path(video).stem}-{index}", video, caption, span))
    return samples


def _tall(path: Path, name: str) -> list[Sample]:
    """Lines `<video> <start> <end>##<sentence>`."""
    samples = []
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            head, _, sentence = line.decode().partition("##")
            video, start, end = head.split()
            span = [float(start), float(end)]
        except ValueError as error:
            raise LabelError(f"{where}: {line[:80]!r} is not '<video> <start> <end>##<sentence>'") from error
        samples.append(_moment(where, name, f"{video}-{number - 1}", video, sentence, span))
    return samples


def measure_moments(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Mean IoU and recall at IoU >= 0.3, 0.5, 0.7, over queries."""
    iou = values_of(graded)
    columns = {"mIoU": iou} | {f"R@{m}": iou >= m for m in (0.3, 0.5, 0.7)}
    return grouped(columns, graded, resamples)


def moment_baselines(samples: Sequence[Sample]) -> Baselines:
    """The whole clip, its middle half, and the labels' own mean start and end as shares of the clip.

    Where the labels do not give the length of a clip, the latest end among its own spans is used.
    """
    ends: dict[str, float] = {}
    for sample in samples:
        end = sample.duration or max(span[1] for span in sample.spans)
        ends[sample.shown] = max(end, ends.get(sample.shown, 0.0))
    firsts = np.array([[s.spans[0][0], s.spans[0][1]] for s in samples])
    lengths = np.array([ends[sample.shown] for sample in samples])
    mean = (firsts / lengths[:, None]).mean(0)

    def always(start: float, end: float) -> dict[str, Prediction]:
        return answers({s.id: f"{start * ends[s.shown]:.6f} to {end * ends[s.shown]:.6f}" for s in samples})

    return {"whole clip": always(0, 1), "middle half": always(0.25, 0.75), "mean span": always(*mean)}


def grounding_benchmark(name: str, title: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        sources=(name,),
        read=_reader(name),
        metrics=tuple(Metric(metric, "micro: over queries") for metric in ("mIoU", "R@0.3", "R@0.5", "R@0.7")),
        measure=measure_moments,
        baselines=moment_baselines,
        note=_NOTE,
        official=read_officially,
    )

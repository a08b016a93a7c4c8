"""Video-MMMU: multiple choice and open answers in three tracks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import with_texts
from evaluation.benchmarks.benchmark import Before, Benchmark, Part
from evaluation.benchmarks.labels import (
    LabelError,
    choice_sample,
    make_sample,
    need,
    of_kind,
    optional,
    read_json,
    read_rows,
)
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.benchmarks.mmmu import named_option, open_right
from evaluation.benchmarks.multiple_choice import NO_GUESS
from evaluation.benchmarks.official import answered
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples, ratio
from evaluation.table import Metric


def read_videommmu(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """JSON `{track: {index: item}}`, in one file or a folder of them, or a folder of one list per track; ids are
    `<track>-<id>`.

    Videos: lmms-lab/VideoMMMU on the hub, an archive per discipline: `<discipline>/<id>.mp4`.
    """
    tracks: dict[str, list[Any]] = {}
    for file in sorted([*path.glob("*.json"), *path.glob("*.jsonl")]) if path.is_dir() else [path]:
        content = read_rows(file) if file.suffix == ".jsonl" else read_json(file)
        if isinstance(content, dict):
            for name, items in content.items():
                rows = list(items.values()) if isinstance(items, dict) else items
                tracks[name.lower()] = of_kind(rows, list, f"{file}: {name}")
        elif path.is_dir():
            tracks[file.stem.lower()] = content
        else:
            raise LabelError(f"{path}: not an object of tracks; give a folder of one file per track")
    wanted = tuple(only or VIDEOMMMU_TRACKS)
    absent = [track for track in wanted if track not in tracks]
    if absent:
        raise LabelError(f"{path}: tracks {', '.join(absent)} missing; complete them, or name the tracks with only=...")
    samples = []
    for track in wanted:
        for index, row in enumerate(tracks[track]):
            where = f"{path}: {track} {index}"
            fields = {
                "id": f"{track}-{need(row, 'id', where)}",
                "video": _video(str(row["id"])),
                "question": need(row, "question", where),
                "source": "video_mmmu",
                "extras": {"track": track, "type": track},
            }
            options = optional(row, "options", where, list, [])
            samples.append(_option_or_text(where, options, need(row, "answer", where), fields))
    return samples


def _video(id: str) -> str:
    """By the subject between an id's first and last underscore ("validation_Art_Theory_3"); else by the id alone."""
    subject = "_".join(id.split("_")[1:-1])
    discipline = next((name for name, subjects in _DISCIPLINES.items() if subject in subjects.split()), None)
    return f"{discipline}/{id}.mp4" if discipline else f"{id}.mp4"


_DISCIPLINES = {  # folder -> subjects (lmms-eval, tasks/videommmu/utils.py)
    "Art": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials "
    "Mechanical_Engineering",
    "Humanities": "History Literature Psychology Sociology",
    "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Science": "Biology Chemistry Geography Math Physics",
}
VIDEOMMMU_TRACKS = ("perception", "comprehension", "adaptation")


def _option_or_text(where: str, options: Sequence[str], right: Any, fields: dict[str, Any]) -> Sample:
    if options:
        return choice_sample(where, options, right, task="choice", **fields)
    first, *also = _accepted(right)
    fields["extras"] |= {"also": also} if also else {}
    return make_sample(where, answer=first, task="math", **fields)


def _accepted(right: Any) -> list[str]:
    """The forms of an open answer that are right: some are a list, or one in a string that was cut short.

    Example:
        >>> _accepted("['3/4', '0.75', '.75]"), _accepted("[1, 2]")
        (['3/4', '0.75', '.75'], ['[1, 2]'])
    """
    if isinstance(right, str) and right.startswith(("['", '["')):
        right = [form.strip(" '\"[]") for form in right.split(",")]
    return [str(form) for form in right] if isinstance(right, list) and right else [str(right)]


def measure_videommmu(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Accuracy over questions and per track."""
    return grouped({"accuracy": values_of(graded)}, graded, resamples, ["track"])


def knowledge_gain(before: Sequence[Graded], after: Sequence[Graded], seed: int = 0) -> np.ndarray:
    """Delta knowledge = (after - before) / (100 - before) x 100 of the adaptation track, paired; shape [1 + R]."""
    chosen = [i for i, j in enumerate(after) if j.sample.extras["track"] == "adaptation"]
    if [before[i].sample.id for i in chosen] != [after[i].sample.id for i in chosen]:
        raise ValueError("knowledge gain needs answers to the same questions, without and with the video")
    resamples = Resamples([after[i].sample.shown for i in chosen], seed)
    everything = np.ones((len(chosen), 1), bool)
    was, now = (resamples.means(values_of([js[i] for i in chosen]), everything)[:, 0] for js in (before, after))
    return 100 * ratio(now - was, 1 - was)


def read_officially(response: str, sample: Sample) -> str:
    """As utils.py of the publisher's lmms-eval: MMMU's rules."""
    if sample.task == "choice":
        return named_option(answered(response), sample.options)
    golds = [sample.answer, *sample.extras.get("also", ())]
    return sample.answer if open_right(answered(response), golds) else ""


VIDEOMMMU = Benchmark(
    name="video_mmmu",
    title="Video-MMMU",
    sources=("video_mmmu",),
    read=read_videommmu,
    metrics=(Metric("accuracy", "as the line says"),),
    measure=measure_videommmu,
    baselines=with_texts,
    before=Before("knowledge_gain", "Delta knowledge", knowledge_gain),
    extras=("track",),
    official=read_officially,
    note=f"{NO_GUESS}. official: MMMU's rules; strict: open questions by equality of the expressions (math-verify). "
    "Delta knowledge: before=PREDICTIONS of a run without the video",
)

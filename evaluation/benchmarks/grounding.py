"""When does it happen: Charades-STA, ActivityNet Captions, NExT-GQA. Where is it: GOT-10k."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from data_tools.sources import videochat_r1
from evaluation.answers import Judgement, answers
from evaluation.benchmarks.base import (
    MICRO,
    Baselines,
    Benchmark,
    LabelError,
    Part,
    from_source,
    grouped,
    make_sample,
    need,
    no_parts,
    option_baselines,
    read_rows,
    values_of,
)
from evaluation.bootstrap import Resamples
from evaluation.table import Metric
from rewards.tasks import Span, box_iou, boxes, spans, temporal_iou, union_iou

_SOURCES = {source.name: source for source in videochat_r1.SOURCES}

# ---------------------------------------------------------------- temporal grounding


def _moments(name: str):
    def read(path: Path, only: Sequence[str] | None) -> list[Sample]:
        """VideoChat-R1's JSON by video, the hub's rows (video, caption, timestamp), or TALL's text lines."""
        no_parts(only)
        if path.suffix == ".txt":
            return _tall(path, name)
        if path.suffix != ".json" or path.read_text(encoding="utf-8").lstrip().startswith("["):
            return _rows(path, name)
        return from_source(_SOURCES[name], path)

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
    for place, row in enumerate(read_rows(path)):
        where = f"{path}: record {place}"
        video = need(row, "video", where)
        span = [float(second) for second in need(row, "timestamp", where)]
        samples.append(_moment(where, name, f"{Path(video).stem}-{place}", video, need(row, "caption", where), span))
    return samples


def _tall(path: Path, name: str) -> list[Sample]:
    """Lines `<video> <start> <end>##<sentence>`."""
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where, (head, _, sentence) = f"{path}:{number}", line.partition("##")
        try:
            video, start, end = head.split()
            span = [float(start), float(end)]
        except ValueError as error:
            raise LabelError(f"{where}: {line[:80]!r} is no '<video> <start> <end>##<sentence>'") from error
        samples.append(_moment(where, name, f"{video}-{number - 1}", video, sentence, span))
    return samples


def measure_moments(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Mean IoU and recall at IoU >= 0.3, 0.5, 0.7, over queries."""
    iou = values_of(judgements)
    columns = {"mIoU": iou} | {f"R@{m}": iou >= m for m in (0.3, 0.5, 0.7)}
    return grouped(columns, judgements, resamples)


def moment_baselines(samples: Sequence[Sample]) -> Baselines:
    """The whole clip, its middle half, and the labels' own mean start and end as shares of the clip.

    Where the labels do not give the length of a clip, the latest end among its own spans stands for it.
    """
    ends: dict[str, float] = {}
    for sample in samples:
        end = sample.duration or max(span[1] for span in sample.spans)
        ends[sample.video] = max(end, ends.get(sample.video, 0.0))
    firsts = np.array([[s.spans[0][0], s.spans[0][1]] for s in samples])
    lengths = np.array([ends[sample.video] for sample in samples])
    mean = (firsts / lengths[:, None]).mean(0)

    def always(start: float, end: float) -> dict:
        return answers({s.id: f"{start * ends[s.video]:.6f} to {end * ends[s.video]:.6f}" for s in samples})

    return {"whole clip": always(0, 1), "middle half": always(0.25, 0.75), "mean span": always(*mean)}


def _grounding(name: str, title: str, note: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        read=_moments(name),
        metrics=tuple(Metric(metric, "micro: over queries") for metric in ("mIoU", "R@0.3", "R@0.5", "R@0.7")),
        measure=measure_moments,
        baselines=moment_baselines,
        note=note,
    )


_SPAN = (
    "The span is read from the answer alone, which must be a span (VideoChat-R1's script takes the last 'a to b' of "
    "the whole text and drops what raises); several spans count as their union"
)
CHARADES = _grounding("charades_sta", "Charades-STA, temporal grounding", _SPAN)
ACTIVITYNET = _grounding("activitynet", "ActivityNet Captions, temporal grounding", _SPAN)


# ---------------------------------------------------------------- NExT-GQA


def read_nextgqa(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """VideoChat-R1's JSON list; or the official folder or CSV file, with gsub_<split>.json beside it."""
    if path.is_dir():
        files = sorted(file for file in path.glob("*.csv") if not only or file.stem in only)
        if len(files) != 1:
            raise LabelError(
                f"{path}: holds {[f.name for f in files]}: name one with labels=FOLDER/test.csv or only=test"
            )
        path = files[0]
    return from_source(_SOURCES["nextgqa_official" if path.suffix == ".csv" else "nextgqa"], path)


def iop(predicted: Span, gold: Span) -> float:
    """Intersection over the predicted span; 0 for one without length (the official scorer gives 1 to one inside)."""
    length = predicted[1] - predicted[0]
    return max(0.0, min(predicted[1], gold[1]) - max(predicted[0], gold[0])) / length if length > 0 else 0.0


def measure_nextgqa(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Best IoU and IoP over the gold spans, answers, and both together; a missing span counts 0."""
    found = [_spans(j) for j in judgements]
    best_iou = np.array([_best(temporal_iou, f, j) for f, j in zip(found, judgements)])
    best_iop = np.array([_best(iop, f, j) for f, j in zip(found, judgements)])
    right = values_of(judgements)
    columns = {
        "Acc@QA": right,
        "Acc@GQA": right * (best_iop >= 0.5),
        "mIoP": best_iop,
        "IoP@0.3": best_iop >= 0.3,
        "IoP@0.5": best_iop >= 0.5,
        "mIoU": best_iou,
        "IoU@0.3": best_iou >= 0.3,
        "IoU@0.5": best_iou >= 0.5,
        "mIoU of unions": np.array([union_iou(f, j.sample.spans) if f else 0.0 for f, j in zip(found, judgements)]),
    }
    return grouped(columns, judgements, resamples, ["type"])


def _spans(j: Judgement) -> Sequence[Span]:
    glue = j.parsed.parts.get("glue")
    return (spans(glue) or []) if glue and j.outcome not in ("failed", "missing") else []


def _best(metric, found: Sequence[Span], j: Judgement) -> float:
    return max(metric(found[0], gold) for gold in j.sample.spans) if found else 0.0


def nextgqa_baselines(samples: Sequence[Sample]) -> Baselines:
    """Each option always, and the majority, with the whole clip as the span."""
    whole = {sample.id: f"<glue>[[0, {sample.duration}]]</glue>" for sample in samples if sample.duration}
    found = option_baselines(samples)
    for said in found.values():
        for id, prediction in said.items():
            prediction.response = f"<answer>{prediction.response}</answer>{whole.get(id, '')}"
    return {f"{name}, whole clip": said for name, said in found.items()}


NEXTGQA = Benchmark(
    name="nextgqa",
    title="NExT-GQA, grounded question answering",
    read=read_nextgqa,
    metrics=tuple(
        Metric(name, MICRO)
        for name in "Acc@QA Acc@GQA mIoP IoP@0.3 IoP@0.5 mIoU IoU@0.3 IoU@0.5".split() + ["mIoU of unions"]
    ),
    measure=measure_nextgqa,
    baselines=nextgqa_baselines,
    note="Deviations from the official scorer: a missing or unreadable span counts 0 (officially skipped), one without "
    "length has IoP 0 (officially 1), of several spans the first counts. 'mIoU of unions' is VideoChat-R1's mIoU",
)


# ---------------------------------------------------------------- GOT-10k, 8 frames


def read_got10k(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """VideoChat-R1's got_val.json: eight boxes per sequence, the first one given in the prompt."""
    no_parts(only)
    return from_source(_SOURCES["got10k"], path)


def measure_tracking(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Mean IoU over the 8 boxes of each sequence, then over sequences; also without the box that the prompt gives."""
    iou = values_of(judgements)
    columns = {"8-frame mean IoU": iou} | {f"R@{m}": iou >= m for m in (0.5, 0.7)}
    columns["without the given box"] = np.array([_after_first(j) for j in judgements])
    return grouped(columns, judgements, resamples)


def _after_first(j: Judgement) -> float:
    gold = j.sample.boxes[1:]
    found = boxes(j.answer, len(j.sample.boxes)) if j.answer else None
    if not found or not gold or j.outcome in ("failed", "missing"):
        return 0.0
    return sum(box_iou(p, g) for p, g in zip(found[1:], gold) if p is not None) / len(gold)


def tracking_baselines(samples: Sequence[Sample]) -> Baselines:
    """The given box stays where it is; the whole picture."""
    return {
        "first box kept": answers({s.id: str([s.boxes[0]] * len(s.boxes)) for s in samples}),
        "whole picture": answers({s.id: str([[0.0, 0.0, 1.0, 1.0]] * len(s.boxes)) for s in samples}),
    }


GOT10K = Benchmark(
    name="got10k",
    title="GOT-10k, 8 frames (VideoChat-R1's form)",
    read=read_got10k,
    metrics=tuple(
        Metric(name, "over sequences") for name in ("8-frame mean IoU", "R@0.5", "R@0.7", "without the given box")
    ),
    measure=measure_tracking,
    baselines=tracking_baselines,
    note="Not the official AO and SR (benchmark=got10k_official): eight frames of each sequence, the first box given "
    "and counted. A list of another length counts 0",
)


# ---------------------------------------------------------------- GOT-10k, official


@dataclass(frozen=True)
class _Sequence:
    """Boxes [T, 4] as left, top, width, height in pixels, the frames that count, and the picture's size."""

    boxes_T4: np.ndarray
    visible_T: np.ndarray
    size: tuple[float, float]


def read_got10k_official(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The folder `val` of GOT-10k: per sequence groundtruth.txt, cover.label and meta_info.ini; ids are its folders."""
    listed = path / "list.txt"
    names = listed.read_text().split() if listed.is_file() else sorted(p.name for p in path.iterdir() if p.is_dir())
    samples = []
    for name in [name for name in names if not only or name in only]:
        sequence = _sequence(path / name)
        x0, y0, width, height = sequence.boxes_T4[0].tolist()
        samples.append(
            make_sample(
                str(path / name),
                id=name,
                video=name,
                question=f"The object starts at [{x0}, {y0}, {width}, {height}] (left, top, width, height, in pixels). "
                f"Give its box in each of the {len(sequence.boxes_T4)} frames.",
                task="tracking",
                # Kept whole in extras: an object may leave the picture, which a sample's boxes do not allow.
                boxes=[[x0, y0, x0 + width, y0 + height]],
                source="got10k_official",
                extras={
                    "rects": sequence.boxes_T4.tolist(),
                    "visible": sequence.visible_T.tolist(),
                    "size": list(sequence.size),
                },
            )
        )
    return samples


def _sequence(folder: Path) -> _Sequence:
    for name in ("groundtruth.txt", "cover.label", "meta_info.ini"):
        if not (folder / name).is_file():
            raise LabelError(f"{folder / name} is missing")
    try:
        rects = np.loadtxt(folder / "groundtruth.txt", delimiter=",", ndmin=2)
        cover = np.loadtxt(folder / "cover.label", ndmin=1)
        line = next(line for line in (folder / "meta_info.ini").read_text().splitlines() if "resolution" in line)
        width, height = (float(text) for text in line.partition(":")[2].strip(" ()").split(","))
    except (ValueError, StopIteration) as error:
        raise LabelError(f"{folder}: groundtruth.txt, cover.label or meta_info.ini cannot be read: {error}") from error
    if rects.shape != (len(cover), 4) or len(rects) < 2:
        raise LabelError(f"{folder}: {rects.shape} boxes against {len(cover)} cover labels")
    return _Sequence(rects, cover > 0, (width, height))


def rect_iou(a_T4: np.ndarray, b_T4: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """IoU of (left, top, width, height) boxes clipped to the picture, as GOT-10k's toolkit has it; shape [T]."""
    corners = []
    for rects in (a_T4, b_T4):
        low = np.clip(rects[:, :2], 0, size)
        corners.append((low, low + np.clip(rects[:, 2:], 0, size - low)))
    (a0, a1), (b0, b1) = corners
    common = np.prod(np.maximum(np.minimum(a1, b1) - np.maximum(a0, b0), 0), axis=1)
    covered = np.prod(a1 - a0, axis=1) + np.prod(b1 - b0, axis=1) - common
    return np.clip(common / (covered + np.finfo(float).eps), 0, 1)


def _frame_ious(j: Judgement) -> np.ndarray:
    """IoU of each frame that counts: not the first, which is given, nor one where the object is covered."""
    extras = j.sample.extras
    rects, visible = np.array(extras["rects"]), np.array(extras["visible"], bool)[1:]
    found = boxes(j.answer, len(rects)) if j.answer and j.outcome not in ("failed", "missing") else None
    if found is None or any(box is None for box in found):
        return np.zeros(int(visible.sum()))
    return rect_iou(np.array(found)[1:], rects[1:], tuple(extras["size"]))[visible]


def measure_official_tracking(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """AO = mean IoU of all frames pooled; SR = share of them with IoU > 0.5 or > 0.75."""
    ious = [_frame_ious(j) for j in judgements]
    columns = np.array([[len(i), i.sum(), (i > 0.5).sum(), (i > 0.75).sum()] for i in ious], float)
    frames, *sums = resamples.sums(columns).T
    values = {name: total / frames for name, total in zip(("AO", "SR@0.5", "SR@0.75"), sums)}
    return [Part("over frames", np.ones(len(judgements), bool), values, overall=True)]


def official_tracking_baselines(samples: Sequence[Sample]) -> Baselines:
    return {"first box kept": answers({s.id: str([s.extras["rects"][0]] * len(s.extras["rects"])) for s in samples})}


GOT10K_OFFICIAL = Benchmark(
    name="got10k_official",
    title="GOT-10k, official AO and SR",
    read=read_got10k_official,
    metrics=tuple(Metric(name, "over all frames of all sequences") for name in ("AO", "SR@0.5", "SR@0.75")),
    measure=measure_official_tracking,
    baselines=official_tracking_baselines,
    note="Answers are [[left, top, width, height], ...] in pixels for every frame; the first is given and left out, "
    "frames in which the object is covered too. Test labels are withheld: val only",
)

BENCHMARKS = (CHARADES, ACTIVITYNET, NEXTGQA, GOT10K, GOT10K_OFFICIAL)

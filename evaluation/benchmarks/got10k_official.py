"""GOT-10k in its official form: AO and SR over all frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from evaluation.benchmarks.benchmark import Baselines, Benchmark, Part
from evaluation.benchmarks.labels import LabelError, make_sample
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.predictions import answers
from evaluation.table import Metric
from rewards.reading import boxes


@dataclass(frozen=True)
class _Sequence:
    """Boxes [T, 4] as left, top, width, height in pixels, the frames that count, the size, and the frames a second."""

    boxes_T4: np.ndarray
    visible_T: np.ndarray
    size: tuple[float, float]
    fps: float | None


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
                fps=sequence.fps,
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
        lines = (folder / "meta_info.ini").read_text().splitlines()
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        width, height = (float(text) for text in said["resolution"].strip("()").split(","))
        fps = float(said["anno_fps"].removesuffix("Hz")) if "anno_fps" in said else None
    except (ValueError, KeyError) as error:
        raise LabelError(f"{folder}: groundtruth.txt, cover.label or meta_info.ini cannot be read: {error}") from error
    if rects.shape != (len(cover), 4) or len(rects) < 2:
        raise LabelError(f"{folder}: {rects.shape} boxes against {len(cover)} cover labels")
    return _Sequence(rects, cover > 0, (width, height), fps)


def rect_iou(a_T4: np.ndarray, b_T4: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """IoU of (left, top, width, height) boxes clipped to the picture, as in GOT-10k's toolkit; shape [T]."""
    corners = []
    for rects in (a_T4, b_T4):
        low = np.clip(rects[:, :2], 0, size)
        corners.append((low, low + np.clip(rects[:, 2:], 0, size - low)))
    (a0, a1), (b0, b1) = corners
    common = np.prod(np.maximum(np.minimum(a1, b1) - np.maximum(a0, b0), 0), axis=1)
    covered = np.prod(a1 - a0, axis=1) + np.prod(b1 - b0, axis=1) - common
    iou_T: np.ndarray = np.clip(common / (covered + np.finfo(float).eps), 0, 1)
    return iou_T


def _frame_ious(j: Graded) -> np.ndarray:
    """IoU of each frame that counts: not the first, which is given, nor one where the object is covered."""
    extras = j.sample.extras
    rects, visible = np.array(extras["rects"]), np.array(extras["visible"], bool)[1:]
    found = boxes(j.answer, len(rects)) if j.answer and j.outcome not in ("failed", "missing") else None
    if found is None or any(box is None for box in found):
        return np.zeros(int(visible.sum()))
    width, height = extras["size"]
    iou_T: np.ndarray = rect_iou(np.array(found)[1:], rects[1:], (width, height))[visible]
    return iou_T


def measure_official_tracking(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """AO = mean IoU of all frames pooled; SR = share of them with IoU > 0.5 or > 0.75."""
    ious = [_frame_ious(j) for j in graded]
    columns = np.array([[len(i), i.sum(), (i > 0.5).sum(), (i > 0.75).sum()] for i in ious], float)
    frames, *sums = resamples.sums(columns).T
    values = {name: total / frames for name, total in zip(("AO", "SR@0.5", "SR@0.75"), sums)}
    return [Part("over frames", np.ones(len(graded), bool), values, overall=True)]


def official_tracking_baselines(samples: Sequence[Sample]) -> Baselines:
    return {"first box kept": answers({s.id: str([s.extras["rects"][0]] * len(s.extras["rects"])) for s in samples})}


GOT10K_OFFICIAL = Benchmark(
    name="got10k_official",
    title="GOT-10k, official AO and SR",
    sources=("got10k_official",),
    read=read_got10k_official,
    metrics=tuple(Metric(name, "over all frames of all sequences") for name in ("AO", "SR@0.5", "SR@0.75")),
    measure=measure_official_tracking,
    baselines=official_tracking_baselines,
    extras=("rects", "visible", "size"),
    note="Answers are [[left, top, width, height], ...] in pixels for every frame; the first is given and left out, "
    "frames in which the object is covered too. Test labels are withheld: val only",
)

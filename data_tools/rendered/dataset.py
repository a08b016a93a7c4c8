"""The rendered data set: clips with known camera motion, questions about them, and a contact sheet."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from data_tools.files import write_json, write_text
from data_tools.rendered.questions import (
    RenderedClip,
    binary_samples,
    chain_for,
    choice_samples,
    grounding_samples,
    tracking_samples,
)
from data_tools.rendered.scene import (
    JITTER,
    SPEEDS,
    TRACKED_SPEEDS,
    boxes_of_track,
    draw_scene,
    draw_track,
    read_clip,
    render_frames,
    with_target,
    write_clip,
)
from data_tools.sample import Sample, write_samples
from data_tools.tracks import Track, motion_of_track, span_of_track
from rewards.errors import UserError
from rewards.motions import NAMES, PRIMITIVES, observation

Split = Literal["sft", "rl", "test", "val"]
SPLITS: tuple[Split, ...] = ("sft", "rl", "test", "val")  # scenes are seeded by the number of their split
Progress = Callable[[int, int], None]


class RenderedError(UserError):
    """Settings or a folder that no data set can be built from."""


class SplitSize(BaseModel):
    """How many clips a split has, and how many questions of each task are dealt over them.

    Attributes:
        clips: that binary and choice questions are dealt over.
        confusable: share of the No questions that ask for the motion confusable with the clip's.
        grounding, tracking: questions when the camera moves, and where a box goes, each about a clip of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    clips: PositiveInt
    binary: int = Field(0, ge=0, multiple_of=2)
    choice: int = Field(0, ge=0)
    confusable: float = Field(0.5, ge=0, le=0.9)
    grounding: int = Field(0, ge=0)
    tracking: int = Field(0, ge=0)

    @property
    def all_clips(self) -> int:
        return self.clips + self.grounding + self.tracking

    def kind(self, number: int) -> Literal["motion", "grounding", "tracking"]:
        """What clip `number` of the split is made for."""
        if number < self.clips:
            return "motion"
        return "grounding" if number < self.clips + self.grounding else "tracking"


class RenderedSettings(BaseModel):
    """Everything that the bytes of a rendered data set depend on.

    Attributes:
        sft, rl, test, val: sizes of the splits; they share no scene. None: no such split.
        frames: per clip; even, since the vision tower merges two frames.
        size: width and height in pixels; a multiple of the side of a visual token (28 or 32 by family).
        fps: frames per second of the clips.
        jitter: shake of the camera (apparent speed, see `data_tools.rendered.scene`).
        terse_chains: share of the SFT chains that leave parallax out wherever it does not decide the answer. A model
            trained on these answers hastily; RL on confusable motions then teaches it to look at parallax.
        chains: schema of the SFT chains, and so of the responses.
        seed: of scenes, cameras and questions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sft: SplitSize
    rl: SplitSize
    test: SplitSize
    val: SplitSize | None = None
    frames: int = Field(4, ge=2, multiple_of=2)
    size: int = Field(84, ge=28)
    fps: float = Field(2.0, gt=0)
    jitter: float = Field(JITTER, ge=0, le=JITTER)
    terse_chains: float = Field(0.0, ge=0, le=1)
    chains: Literal["ota", "think_answer"] = "ota"
    seed: int = Field(0, ge=0)

    @field_validator(*SPLITS)
    @classmethod
    def _asks_something(cls, size: SplitSize | None) -> SplitSize | None:
        if size and not size.binary + size.choice + size.grounding + size.tracking:
            raise ValueError("needs questions")
        return size

    @field_validator("size")
    @classmethod
    def _holds_whole_tokens(cls, size: int) -> int:
        if size % 28 and size % 32:
            raise ValueError("must be a multiple of 28 or 32, the side of a visual token")
        return size

    @property
    def splits(self) -> list[Split]:
        """Those that it has."""
        return [split for split in SPLITS if getattr(self, split)]

    @property
    def spatiotemporal(self) -> bool:
        """Whether it asks when, or where."""
        return any(getattr(self, split).all_clips > getattr(self, split).clips for split in self.splits)

    @model_validator(mode="after")
    def _seconds_are_whole(self) -> "RenderedSettings":
        if self.spatiotemporal:
            if not self.fps.is_integer() or self.frames < 3 * self.fps or self.frames % self.fps:
                raise ValueError("grounding and tracking need three full seconds or more, and a whole number of fps")
        return self


def build_rendered(
    settings: RenderedSettings, folder: Path, workers: int = 1, progress: Progress = lambda done, total: None
) -> dict[str, dict[str, int]]:
    """Render what is missing in `folder`: clips/, <split>.jsonl, contact_sheet.png, counts.json.

    The same settings give the same bytes, whatever the number of workers and however often it was interrupted.

    Args:
        progress: called with the number of clips that are there, and their total.

    Returns:
        counts[split]: clips, questions per task, No questions, confusable No questions, clips per motion.

    Raises:
        RenderedError: `workers` below 1, or a folder that holds a data set of other settings.
    """
    if workers < 1:
        raise RenderedError(f"workers: need at least 1, got {workers}")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    _claim(folder / "settings.json", settings)
    jobs = [(split, number) for split in settings.splits for number in range(getattr(settings, split).all_clips)]
    clips: dict[Split, list[RenderedClip]] = {split: [] for split in settings.splits}
    for done, (clip, (split, _)) in enumerate(zip(_render_all(settings, folder, jobs, workers), jobs), 1):
        clips[split].append(clip)
        progress(done, len(jobs))

    counts: dict[str, dict[str, int]] = {}
    for split in settings.splits:
        samples = _samples(settings, split, clips[split])
        write_samples(folder / f"{split}.jsonl", samples)
        no = [sample for sample in samples if sample.task == "binary" and sample.answer_text == "No"]
        counts[split] = {
            "clips": getattr(settings, split).all_clips,
            **Counter(str(sample.task) for sample in samples),
            "no": len(no),
            "confusable_no": sum(sample.extras["confusable"] for sample in no),
            **{f"clips/{motion}": count for motion, count in Counter(clip.motion for clip in clips[split]).items()},
        }
    contact_sheet(folder, list(chain(*clips.values()))).save(folder / "contact_sheet.png")
    write_json(folder / "counts.json", counts)
    return counts


def _samples(settings: RenderedSettings, split: Split, clips: Sequence[RenderedClip]) -> list[Sample]:
    """The questions about a split's clips in random order, with chains for SFT."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split)])
    size = getattr(settings, split)
    of_kind = defaultdict(list)
    for number, clip in enumerate(clips):
        of_kind[size.kind(number)].append(clip)
    samples = [
        *binary_samples(of_kind["motion"], size.binary, split, rng, size.confusable),
        *choice_samples(of_kind["motion"], size.choice, split, rng),
        *grounding_samples(of_kind["grounding"], split),
        *tracking_samples(of_kind["tracking"], split),
    ]
    samples = [samples[index] for index in rng.permutation(len(samples))]
    if split != "sft":
        return samples
    terse = rng.random(len(samples)) < settings.terse_chains
    return [
        sample.model_copy(update={"chain": chain_for(sample, bool(short), settings.chains)})
        for sample, short in zip(samples, terse)
    ]


def _claim(path: Path, settings: RenderedSettings) -> None:
    """Refuse a folder with the clips of other settings."""
    text = settings.model_dump_json(indent=2, exclude_none=True) + "\n"
    if not path.exists():
        write_text(path, text)
    elif path.read_text() != text:
        raise RenderedError(f"{path}: holds a data set of other settings; choose another folder, or delete this one")


def _render_all(
    settings: RenderedSettings, folder: Path, jobs: Sequence[tuple[Split, int]], workers: int
) -> Iterable[RenderedClip]:
    render_one = partial(render_clip, settings, folder)
    if workers == 1:
        yield from map(render_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(render_one, jobs, chunksize=16)


def render_clip(settings: RenderedSettings, folder: Path, job: tuple[Split, int]) -> RenderedClip:
    """Render clip number `job[1]` of split `job[0]` and its track, unless both are there already."""
    split, number = job
    name = f"{split}-{number:05d}"
    video, track_file = folder / "clips" / f"{name}.mp4", folder / "clips" / f"{name}.json"
    if video.exists() and track_file.exists():
        return _with_facts(video.name, name, Track.load(track_file))
    frames, track = draw_clip(settings, split, number)
    track.save(track_file)
    write_clip(video, frames, settings.fps)
    return _with_facts(video.name, name, track)


def _with_facts(file: str, scene: str, track: Track) -> RenderedClip:
    boxes = () if track.target_23 is None else boxes_of_track(track)[:: round(track.fps)].round().astype(int).tolist()
    duration = len(track.focal_T) / track.fps
    motion, span = motion_of_track(track), span_of_track(track)
    return RenderedClip(f"clips/{file}", motion, scene, duration, span, tuple(map(tuple, boxes)))


def draw_clip(settings: RenderedSettings, split: Split, number: int) -> tuple[np.ndarray, Track]:
    """Frames uint8 [T, H, W, 3] and track of a clip; the primitives alternate, `static` only where it can be asked."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), number])
    scene = draw_scene(rng)
    kind = getattr(settings, split).kind(number)
    motions = PRIMITIVES[1:] if kind == "grounding" else PRIMITIVES
    span = None
    if kind == "grounding":
        # Whole seconds, since two frames make one visual token; two or more unless it stops within the clip.
        seconds = round(settings.frames / settings.fps)
        spans = [
            (start, end) for start, end in combinations(range(seconds + 1), 2) if end < seconds or 1 < end - start < end
        ]
        span = spans[rng.integers(len(spans))]
    motion = motions[number % len(motions)]
    speeds = TRACKED_SPEEDS if kind == "tracking" else SPEEDS
    track = draw_track(motion, rng, settings.frames, settings.size, settings.fps, settings.jitter, speeds, span)
    if kind == "tracking":
        scene, track = with_target(scene, track, rng)
    return render_frames(scene, track), track


def contact_sheet(folder: Path, clips: Iterable[RenderedClip], zoom: int = 2) -> Image.Image:
    """One row per primitive: its name, what is to be seen, the frames of one clip under a fixed cross."""
    first: dict[str, RenderedClip] = {}
    for clip in clips:
        first.setdefault(clip.motion, clip)
    shown = [motion for motion in PRIMITIVES if motion in first]
    rows = [read_clip(folder / first[motion].video).repeat(zoom, axis=1).repeat(zoom, axis=2) for motion in shown]
    frames, side = rows[0].shape[:2]
    label, gap = 300, 4
    sheet = Image.new("RGB", (label + frames * (side + gap), len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, motion in enumerate(shown):
        top = row * (side + gap)
        draw.text((8, top + side // 2 - 20), f"{NAMES[motion]}\n\n{observation(motion)}", fill="black")
        for column, frame in enumerate(rows[row]):
            left = label + column * (side + gap)
            sheet.paste(Image.fromarray(frame), (left, top))
            draw.line([(left + side // 2, top), (left + side // 2, top + side - 1)], fill="white")
            draw.line([(left, top + side // 2), (left + side - 1, top + side // 2)], fill="white")
    return sheet

"""The media budget: each source video is decoded once into a small clip of exactly the frames that every stage sees.

A normalised clip is lossless RGB in H.264, so that every decoder gives the same bytes, at its final size and at its own
frame rate: frame k stands at k steps, a whole number of milliseconds, in the clip as in the source. Whatever takes all
of its frames sees the budget's frames at their true times.

Clips are named by the source's content and the budget: clips of two budgets live side by side, the same video under two
names is one clip, and what is there is not made again.
"""

import hashlib
import io
import json
import sys
import uuid
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from itertools import chain
from math import ceil, floor, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_tools.parallel import each
from data_tools.probe import ClipError, ask, clip_path, serve

if TYPE_CHECKING:
    import av

VERSION = 1  # of what a budget makes of a video; part of every clip's name
FRAMES_PER_PATCH = 2  # Qwen's vision towers merge two frames
# qwen-vl-utils 0.0.14, vision_process.py:25 and :31, shrinks what takes more tokens per pair of frames or in all.
PAIR_TOKENS, CLIP_TOKENS = 768, 0.9 * 128_000
# Qwen3-VL's own processor shrinks a clip of more pixels in all (its video_preprocessor_config.json: longest_edge).
CLIP_PIXELS = {32: 25_165_824}  # by token_side
Progress = Callable[[int, int], None]


class MediaError(ValueError):
    """A budget that cannot be kept, or clips that were made with another one; the message says what to do."""


@dataclass(frozen=True)
class Budget:
    """What every stage takes from a video.

    Attributes:
        fps: frames per second; 1000 / fps is a whole number of milliseconds.
        max_frames: `uniform` spreads this many over a video that is too long, `head` takes its first ones.
        min_frames: a video that is too short is sampled more densely.
        max_pixels, min_pixels: per frame; the aspect ratio is kept as far as whole tokens allow.
        token_side: pixels along the side of a visual token (patch times merge): 28 in Qwen2.5-VL, 32 in Qwen3-VL.

    Raises:
        MediaError: naming the setting.
    """

    fps: float
    max_frames: int
    min_frames: int
    max_pixels: int
    min_pixels: int
    sampler: Literal["uniform", "head"] = "uniform"
    token_side: int = 28

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 500 or abs(1000 / self.fps - round(1000 / self.fps)) > 1e-6:
            raise MediaError(
                f"fps {self.fps:g}: 1000 / fps must be a whole number of milliseconds: 1, 2, 4, 5, 8, 10 …"
            )
        if self.max_frames % FRAMES_PER_PATCH or self.min_frames % FRAMES_PER_PATCH:
            raise MediaError(f"max_frames {self.max_frames}, min_frames {self.min_frames}: frames are taken in pairs")
        if not FRAMES_PER_PATCH <= self.min_frames <= self.max_frames:
            raise MediaError(f"min_frames {self.min_frames} must lie between 2 and max_frames {self.max_frames}")
        token = self.token_side**2
        most = int(token * min(PAIR_TOKENS, FRAMES_PER_PATCH * CLIP_TOKENS / self.max_frames))
        if self.token_side in CLIP_PIXELS:
            most = min(most, CLIP_PIXELS[self.token_side] // self.max_frames)
        if not token <= self.max_pixels <= most:
            raise MediaError(
                f"max_pixels {self.max_pixels}: {token} (one visual token) to {most}, beyond which Qwen's loader "
                f"shrinks the {self.max_frames} frames"
            )
        if self.min_pixels > self.max_pixels / 4:
            raise MediaError(f"min_pixels {self.min_pixels} must be at most a quarter of max_pixels {self.max_pixels}")

    @property
    def step_ms(self) -> int:
        return round(1000 / self.fps)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True, slots=True)
class Clip:
    """A normalised clip.

    Attributes:
        video: its path under the store.
        frames: their number, even; frame k shows the source at k * step_ms.
        width, height: pixels, multiples of a visual token's side.
        duration: of the source, in seconds.
        source_sha256: of the source's bytes.
    """

    video: str
    frames: int
    step_ms: int
    width: int
    height: int
    duration: float
    source_sha256: str

    @property
    def fps(self) -> float:
        return 1000 / self.step_ms


def sampling(duration: float, budget: Budget) -> tuple[int, int]:
    """Number of frames, and the step between them in milliseconds, for a video of `duration` seconds.

    A video that fits is sampled at the budget's rate to its end, half a step more or less, in pairs of frames. Any
    other is covered evenly, by max_frames or min_frames, at a rate of its own.
    """
    wanted = duration * budget.fps
    if budget.sampler == "head":
        wanted = min(wanted, budget.max_frames)
    frames = FRAMES_PER_PATCH * ceil((wanted - 0.5) / FRAMES_PER_PATCH)
    if budget.min_frames <= frames <= budget.max_frames:
        return frames, budget.step_ms
    frames = min(max(frames, budget.min_frames), budget.max_frames)
    return frames, max(1, round(1000 * duration / frames))


def frame_size(width: int, height: int, budget: Budget) -> tuple[int, int]:
    """Width and height that Qwen's loaders give a frame under the budget (qwen-vl-utils 0.0.14, smart_resize).

    Raises:
        ClipError: so narrow that no such size keeps the budget.
    """
    side = budget.token_side
    wide, high = (max(side, round(length / side) * side) for length in (width, height))
    if wide * high > budget.max_pixels:
        shrink = sqrt(width * height / budget.max_pixels)
        wide, high = (max(side, floor(length / shrink / side) * side) for length in (width, height))
    elif wide * high < budget.min_pixels:
        grow = sqrt(budget.min_pixels / (width * height))
        wide, high = (ceil(length * grow / side) * side for length in (width, height))
    if not budget.min_pixels <= wide * high <= budget.max_pixels or max(wide, high) > 180 * min(wide, high):
        raise ClipError("shape", f"{width} x {height} pixels do not fit into {budget.max_pixels}")
    return wide, high


def clip_name(source_sha256: str, budget: Budget) -> str:
    """Path under the store, without suffix, of what the budget makes of a video."""
    content = json.dumps([VERSION, source_sha256, asdict(budget)])
    name = hashlib.sha256(content.encode()).hexdigest()[:40]
    return f"{name[:2]}/{name}"


# ---------------------------------------------------------------- one clip, in this process


def normalise(path: Path, budget: Budget, store: Path) -> Clip:
    """Write the clip of a video and, when it is whole, what it holds as JSON next to it; or find both there.

    Raises:
        ClipError: the video is broken, has one frame, or is too narrow.
    """
    import av

    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name = clip_name(sha256, budget)
    target, facts = store / f"{name}.mp4", store / f"{name}.json"
    if facts.exists() and target.exists():
        return Clip(**json.loads(facts.read_text())["clip"])
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        index = _index(path)
        frames, step = sampling(index.duration, budget)
        shown = index.shown([step * number / 1000 for number in range(frames)])
        pictures = _pictures(path, index, shown, budget)
        width, height = _write(unfinished, pictures, step)
        clip = Clip(f"{name}.mp4", frames, step, width, height, index.duration, sha256)
        unfinished.replace(target)
    except av.FFmpegError as error:
        raise ClipError("undecodable", str(error)) from error
    finally:
        unfinished.unlink(missing_ok=True)
    seconds = [round(index.seconds[number], 6) for number in shown]
    record = {"version": VERSION, "budget": asdict(budget), "clip": asdict(clip), "source_seconds": seconds}
    _write_json(facts, record)
    return clip


@dataclass(frozen=True)
class _Index:
    """When each frame of a video is shown.

    Attributes:
        seconds: of the frames, from the first one, in the order in which they are shown.
        duration: seconds.
        stamps: of the same frames, in ticks; None where the container does not tell.
        packets: stamp -> where its packet stands in decoding order, and where decoding for it has to begin.
    """

    seconds: list[float]
    duration: float
    stamps: list[int] | None = None
    packets: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def shown(self, times: Iterable[float]) -> list[int]:
        """Number of the frame on show at each time; the last one, after the end."""
        return [bisect_right(self.seconds, time + 1e-6) - 1 for time in times]


def _index(path: Path) -> _Index:
    """Read the packets, without decoding any."""
    import av

    with av.open(str(path)) as file:
        if not file.streams.video:
            raise ClipError("no_video", "has no video stream")
        stream = file.streams.video[0]
        packets = [(packet.pts, packet.is_keyframe) for packet in file.demux(stream) if _holds_frame(packet)]
        promised, tick, rate = stream.frames, float(stream.time_base), float(stream.average_rate or 0)
    if len(packets) < 0.9 * promised:
        raise ClipError("truncated", f"holds {len(packets)} of the {promised} frames that its header promises")
    if len(packets) < 2:
        raise ClipError("one_frame", "has a single frame, which shows no movement")
    stamps = [pts for pts, _ in packets]
    if None in stamps:
        if not rate:
            raise ClipError("no_rate", "has neither times of its frames nor a frame rate")
        return _Index([number / rate for number in range(len(packets))], len(packets) / rate)
    places, key, before = {}, 0, 0
    for place, (pts, keyframe) in enumerate(packets):
        if keyframe:
            key, before = place, key
        # What follows a keyframe and is shown before it also refers to what stands before it.
        places[pts] = place, before if pts < stamps[key] else key
    stamps.sort()
    seconds = [(stamp - stamps[0]) * tick for stamp in stamps]
    if seconds[-1] <= 0:
        raise ClipError("no_rate", "has no frame rate: all its frames stand at the same time")
    return _Index(seconds, seconds[-1] * len(stamps) / (len(stamps) - 1), stamps, places)


def _holds_frame(packet: "av.Packet") -> bool:
    """Not the empty one at the end, nor one that an edit list hides."""
    return packet.size > 0 and not packet.is_discard


def _pictures(path: Path, index: _Index, shown: Sequence[int], budget: Budget) -> "Iterator[av.VideoFrame]":
    """The frames `shown`, in RGB and at their final size; decodes little else where there are time stamps."""
    times = Counter(shown)
    wanted = deque(sorted(times))
    if index.stamps is not None:
        by_stamp = {index.stamps[number]: number for number in wanted}
        for frame in _decoded(path, {stamp: index.packets[stamp] for stamp in by_stamp}):
            if wanted and by_stamp.get(frame.pts) == wanted[0]:
                yield from [_resized(frame, budget)] * times[wanted.popleft()]
    if wanted:  # no time stamps, or the decoder does not pass them on: by number, from the start
        for number, frame in enumerate(_decoded(path)):
            if wanted and number == wanted[0]:
                yield from [_resized(frame, budget)] * times[wanted.popleft()]
    if wanted:
        raise ClipError("undecodable", f"{len(wanted)} of {len(times)} frames do not decode")


def _decoded(path: Path, only: Mapping[int, tuple[int, int]] | None = None) -> "Iterator[av.VideoFrame]":
    """All frames in the order in which they are shown, or those with a stamp in `only` and what they refer to.

    Args:
        only: stamp -> place of its packet, and where decoding for it begins.
    """
    import av

    needed = None if only is None else set(chain.from_iterable(range(begin, end + 1) for end, begin in only.values()))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"  # each core decodes a video of its own
        decoder, idle = stream.codec_context, True
        for place, packet in enumerate(filter(_holds_frame, file.demux(stream))):
            if needed is None:
                yield from _whole(decoder.decode(packet))
            elif place in needed:
                # No other frame refers to those that the decoder may skip.
                decoder.skip_frame = "DEFAULT" if packet.pts in only else "NONREF"
                yield from _whole(decoder.decode(packet))
                idle = False
            elif not idle:
                yield from _whole(decoder.decode(None))  # what is still inside
                decoder.flush_buffers()
                idle = True
        if needed is None or not idle:
            yield from _whole(decoder.decode(None))


def _whole(frames: "Iterable[av.VideoFrame]") -> "Iterator[av.VideoFrame]":
    for frame in frames:
        if frame.is_corrupt:
            raise ClipError("undecodable", f"the frame at {frame.time} s is damaged")
        yield frame


def _resized(frame: "av.VideoFrame", budget: Budget) -> "av.VideoFrame":
    """In RGB, at its final size, turned as the file asks players to."""
    import av
    import numpy as np

    turns = round(frame.rotation / 90) % 4
    sideways = turns % 2 == 1
    width, height = (frame.height, frame.width) if sideways else (frame.width, frame.height)
    width, height = frame_size(width, height, budget)
    before = (height, width) if sideways else (width, height)
    picture = frame.reformat(*before, format="rgb24", interpolation="BICUBIC")
    if turns:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(picture.to_ndarray(), turns)), "rgb24")
    return picture


def _write(path: Path, pictures: "Iterator[av.VideoFrame]", step_ms: int) -> tuple[int, int]:
    """Write lossless RGB; the same pictures give the same bytes. Gives width and height."""
    import av

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libx264rgb", rate=Fraction(1000, step_ms))
        stream.options = {"qp": "0", "preset": "ultrafast", "threads": "1"}  # decodes as fast as any other setting
        stream.pix_fmt = "rgb24"
        for number, picture in enumerate(pictures):
            if not number:
                stream.width, stream.height = picture.width, picture.height
            picture.pts, picture.time_base = number, Fraction(step_ms, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return stream.width, stream.height


# ---------------------------------------------------------------- many clips


def normalise_all(
    videos: Sequence[str],
    media_root: Path,
    store: Path,
    budget: Budget,
    workers: int | None = None,
    timeout_s: float = 300,
    ray: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[str, Clip | ClipError]]:
    """Each video with its clip, or why there is none; those first that an earlier run has made.

    Args:
        videos: paths under `media_root`.
        store: folder of the clips; shared by runs and budgets.
        workers: processes; None takes one per core.
        timeout_s: per video; its process is ended then, and another one takes its place.
        ray: work over the Ray cluster at this address, which must see the same files.
        progress: called with the number of videos that are done, and their total.
    """
    store.mkdir(parents=True, exist_ok=True)
    log = _Log(store / "log.jsonl", media_root, budget)
    missing, done = [], 0
    for video in videos:
        answer = log.find(video)
        if answer is None or (isinstance(answer, Clip) and not (store / answer.video).exists()):
            missing.append(video)
            continue
        yield video, answer
        progress(done := done + 1, len(videos))
    command = (sys.executable, "-P", "-m", "data_tools.media", json.dumps(asdict(budget)), str(store.resolve()))
    work = partial(_in_child, media_root, command, timeout_s)
    for video, answer in each(work, missing, workers, ray):
        log.add(video, answer)
        yield video, answer
        progress(done := done + 1, len(videos))


def _in_child(media_root: Path, command: tuple[str, ...], timeout_s: float, video: str) -> Clip | ClipError:
    try:
        return Clip(**ask(clip_path(media_root, video), timeout_s, command))
    except ClipError as error:
        return error


class _Log:
    """What became of each video file: lines that are only ever appended to, by whoever works in the store."""

    def __init__(self, path: Path, media_root: Path, budget: Budget) -> None:
        self._path, self._root, self._budget = path, media_root.resolve(), asdict(budget)
        self._known: dict[str, tuple[list[int] | None, Clip | ClipError]] = {}
        with path.open("rb") if path.exists() else io.BytesIO() as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:  # empty, or cut off when its writer was killed
                    continue
                if record["version"] == VERSION and record["budget"] == self._budget:
                    answer = Clip(**record["clip"]) if "clip" in record else ClipError(*record["fault"])
                    self._known[record["source"]] = record["stamp"], answer

    def find(self, video: str) -> Clip | ClipError | None:
        stamp, answer = self._known.get(str(self._root / video), (None, None))
        return answer if answer is not None and stamp == self._stamp(video) else None

    def add(self, video: str, answer: Clip | ClipError) -> None:
        fault = isinstance(answer, ClipError)
        if fault and answer.reason in ("timeout", "crash"):  # perhaps the fault of a busy machine: asked again
            return
        record = {"source": str(self._root / video), "stamp": self._stamp(video), "version": VERSION}
        record |= {"fault": [answer.reason, answer.message]} if fault else {"clip": asdict(answer)}
        # A line of its own, also after one that was cut off; one write, which others' lines do not come between.
        line = "\n" + json.dumps(record | {"budget": self._budget}) + "\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def _stamp(self, video: str) -> list[int] | None:
        """Size and time of the file, by which a change is seen; None where there is none."""
        try:
            status = (self._root / video).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]


# ---------------------------------------------------------------- what a folder of clips was made with


def write_manifest(folder: Path, budget: Budget, clips: int) -> None:
    """Note what the clips of a run's data folder were made with."""
    _write_json(folder / "media.json", {"version": VERSION, "budget": asdict(budget), "clips": clips})


def require_budget(folder: Path, budget: Budget) -> None:
    """Refuse clips that were made with another budget, or nobody knows how.

    Raises:
        MediaError: naming both budgets.
    """
    path = folder / "media.json"
    if not path.exists():
        raise MediaError(f"{path} is missing: nobody knows with which media budget the clips were made")
    record = json.loads(path.read_text())
    made = Budget(**record["budget"])
    if made != budget or record["version"] != VERSION:
        raise MediaError(
            f"the clips of {folder} were made with another media budget:\n  made with: {made}\n  asked for: {budget}"
        )


def _write_json(path: Path, content: Any) -> None:
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    unfinished.write_text(json.dumps(content) + "\n")
    unfinished.replace(path)


if __name__ == "__main__":
    serve(partial(normalise, budget=Budget(**json.loads(sys.argv[1])), store=Path(sys.argv[2])))

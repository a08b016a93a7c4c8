"""Decode a source video once, into a small clip of exactly the frames that every stage sees.

A normalised clip is lossless RGB in H.264, so that every decoder gives the same bytes. It has its final size and a
frame rate of its own: frame k is shown at k steps, a whole number of milliseconds, in the clip as in the source. A
loader that takes all of its frames sees the budget's frames at their true times.

Clips are named by the source's content and the budget. So clips of two budgets live side by side, the same video under
two names is one clip, and a clip that exists is not made again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.files import whole_path, write_json
from data_tools.media.budget import FRAMES_PER_PATCH, VERSION, Budget, FrameImages, budget_from, frame_size, sampling
from data_tools.media.child import ClipError, serve
from data_tools.media.frames import Converter, decode_frames, how_shown
from data_tools.media.packets import PacketIndex, index_packets
from data_tools.media.pictures import Source, content_of, decode_pictures, index_pictures
from data_tools.media.stills import Still

if TYPE_CHECKING:
    import av


@dataclass(frozen=True, slots=True)
class Clip:
    """A normalised clip.

    Attributes:
        video: its path under the store.
        frames: their number, even; frame k shows the source at k * step_ms, from the start of the part that it is of.
        width, height: pixels, multiples of a visual token's side.
        duration: of the source, or of its part, in seconds.
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

    def tokens(self, side: int, announcement: int = 0) -> int:
        """Visual tokens, each of `side` pixels, and the text tokens that announce each pair of frames."""
        return self.frames // FRAMES_PER_PATCH * ((self.width // side) * (self.height // side) + announcement)


@dataclass(frozen=True, slots=True)
class ClipImages:
    """A clip as still images, one a frame.

    Attributes:
        images: their paths under the store, in order.
        step_ms, width, height, duration, source_sha256: as of a `Clip`.
    """

    images: list[str]
    step_ms: int
    width: int
    height: int
    duration: float
    source_sha256: str

    @property
    def stills(self) -> list[Still]:
        """Each of them as an image by itself."""
        return [Still(image, self.width, self.height, self.source_sha256) for image in self.images]

    def tokens(self, side: int, announcement: int = 0) -> int:
        """Visual tokens, each of `side` pixels; nothing announces an image."""
        return sum(still.tokens(side) for still in self.stills)


def clip_name(
    source_sha256: str, budget: Budget, start: float | None = None, end: float | None = None, fps: float | None = None
) -> str:
    """Path under the store, without suffix, of what the budget makes of a video, or of a part of it.

    Args:
        fps: of a video that is given as pictures.
    """
    part = [] if start is None and end is None else [start or 0.0, end]
    rate = [] if fps is None else [{"fps": fps}]
    content = json.dumps([VERSION, source_sha256, asdict(budget), *part, *rate])
    name = hashlib.sha256(content.encode()).hexdigest()[:40]
    return f"{name[:2]}/{name}"


# ---------------------------------------------------------------- one clip, in this process


def normalise(
    path: Source,
    budget: Budget,
    store: Path,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
) -> Clip | ClipImages:
    """Write the clip of a video and then, as JSON next to it, what it holds; or find both there.

    Under a budget of images it is a folder of PNG files.

    Args:
        fps: of a video that is given as pictures; None: the budget's, so that each of them is taken.
        start, end: the part of the video that is taken, in seconds; one that ends later than the video ends with it.

    Raises:
        ClipError: the video is broken, is too narrow, has one frame (in the part), or ends before the part begins.
    """
    import av

    source, rate = content_of(path), float(fps or budget.fps) if isinstance(path, list) else None
    name = clip_name(source, budget, start, end, rate)
    kind = ClipImages if isinstance(budget, FrameImages) else Clip
    target, facts = store / (name if kind is ClipImages else f"{name}.mp4"), store / f"{name}.json"
    if facts.exists() and target.exists():
        return kind(**json.loads(facts.read_text())["clip"])
    index = index_pictures(path, fps or budget.fps) if isinstance(path, list) else index_packets(path)
    first, duration = _part(index.duration, start, end)
    frames, step = sampling(duration, budget)
    times = [first + step * number / 1000 for number in range(frames)]
    (last,) = index.shown([first + duration - 1e-5])  # the last pair may begin at the end, and shows nothing behind it
    shown = [min(number, last) for number in index.shown(times)]
    if len(set(shown)) < 2:
        raise ClipError("one_frame", f"shows a single frame in the {duration:g} s from {first:g} s")
    pictures = _pictures(path, index, shown, budget)
    clip: Clip | ClipImages
    try:
        if kind is ClipImages:
            images, width, height = _write_images(target, pictures)
            clip = ClipImages([f"{name}/{image}" for image in images], step, width, height, duration, source)
        else:
            with whole_path(target) as unfinished:
                width, height = _write(unfinished, pictures, step)
            clip = Clip(f"{name}.mp4", frames, step, width, height, duration, source)
    except av.FFmpegError as error:
        raise ClipError("undecodable", str(error)) from error
    seconds = [round(index.seconds[number], 6) for number in shown]
    record = {"version": VERSION, "budget": asdict(budget), "clip": asdict(clip), "source_seconds": seconds}
    write_json(facts, record)
    return clip


def _part(length: float, start: float | None, end: float | None) -> tuple[float, float]:
    """Beginning and duration of a part of a video, in seconds."""
    first = start or 0.0
    if first >= length:
        raise ClipError("after_end", f"is asked for from {first:g} s on, but ends at {length:.2f} s")
    return first, min(length, length if end is None else end) - first


def _pictures(path: Source, index: PacketIndex, shown: Sequence[int], budget: Budget) -> "Iterator[av.VideoFrame]":
    """The frames `shown`, in RGB and at their final size."""
    times, convert = Counter(shown), Converter()
    decoded = decode_pictures(path, shown) if isinstance(path, list) else decode_frames(path, index, shown)
    for number, frame in decoded:
        show = how_shown(frame, index.pixel_aspect)
        yield from [convert(frame, show, *frame_size(show.width, show.height, budget))] * times[number]


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


def _write_images(folder: Path, pictures: "Iterator[av.VideoFrame]") -> tuple[list[str], int, int]:
    """Write each picture losslessly; their names in order, width and height."""
    from PIL import Image

    names, width, height = [], 0, 0
    for number, picture in enumerate(pictures):
        names.append(f"{number:03d}.png")
        width, height = picture.width, picture.height
        with whole_path(folder / names[-1]) as unfinished:
            Image.fromarray(picture.to_ndarray(format="rgb24")).save(unfinished, "PNG", compress_level=1)
    return names, width, height


def turn_clip(source: Path, target: Path, turn: str) -> None:
    """Write a normalised clip "mirrored", backwards ("reversed") or "shuffled": the same pixels at the same rate.

    The name of the clip decides the order of shuffled frames.

    Raises:
        ClipError: it does not decode.
    """
    import av
    import numpy as np

    from data_tools.controls import shuffled

    try:
        with av.open(str(source)) as file:
            stream = file.streams.video[0]
            step = round(1000 / float(stream.average_rate or 1))
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        if turn == "mirrored":
            shown = [frame[:, ::-1] for frame in frames]
        else:
            shown = frames[::-1] if turn == "reversed" else [frames[at] for at in shuffled(len(frames), source.name)]
        pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in shown)
        with whole_path(target) as unfinished:
            _write(unfinished, pictures, step)
    except av.FFmpegError as error:
        raise ClipError("undecodable", str(error)) from error


if __name__ == "__main__":
    serve(lambda path, budget, store, **part: normalise(path, budget_from(budget), Path(store), **part))

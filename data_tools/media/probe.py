"""What a video or image file holds, found out in a child process."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_tools.media.budget import VERSION
from data_tools.media.cache import Facts, Progress, VideoCache, each_video
from data_tools.media.child import ClipError, ask_child, clip_path, serve
from data_tools.media.frames import decode_frames, how_shown
from data_tools.media.packets import index_packets
from data_tools.media.parallel import Map
from data_tools.media.pictures import Source, content_of, decode_pictures, index_pictures, source_of
from data_tools.media.stills import StillInfo
from data_tools.sample import Cut

FRAMES = 4  # that are decoded, evenly spread; the last one shows whether the file is truncated
CHILD = (sys.executable, "-P", "-m", "data_tools.media.probe")
STILLS_CHILD = (sys.executable, "-P", "-m", "data_tools.media.stills")


@dataclass(frozen=True)
class ClipInfo:
    """A video that decodes.

    Attributes:
        frames: their number.
        fps: frames per second, on average; None of a video that is given as pictures.
        duration: seconds; None likewise.
        width, height: of a frame as it is shown: turned, and in square pixels.
        rotation, mirrored: how the file asks players to show its frames: turned by so many degrees (counterclockwise,
            0 to 359), and then mirrored left to right.
        codec, pixel_format: in FFmpeg's words, e.g. h264, yuv420p10le.
        variable_frame_rate: whether the steps between frames differ by more than 1 % of the mean or one tick.
        sha256: of the file's bytes.
    """

    frames: int
    fps: float | None
    duration: float | None
    width: int
    height: int
    rotation: int
    mirrored: bool
    codec: str
    pixel_format: str
    variable_frame_rate: bool
    sha256: str


def probe(path: Source, timeout_s: float = 20, command: tuple[str, ...] = CHILD) -> ClipInfo:
    """Read a video's packets and decode `FRAMES` of its frames, by the very functions that make clips of videos.

    May be called from several threads or processes at once.

    Raises:
        ClipError: the file is missing, empty, not a video, broken, of one frame or without a rate, or takes too long.
    """
    return ClipInfo(**ask_child(path, timeout_s, command))


def probe_all(
    kind: type[Facts],
    cuts: Sequence[Cut],
    media_root: Path,
    cache: Path,
    each: Map,
    timeout_s: float,
    progress: Progress,
    links_into: Sequence[Path] = (),
) -> Iterator[tuple[str, Facts | ClipError]]:
    """Each video or image with what it holds or why it cannot be used, those first that an earlier run has decoded.

    Args:
        kind: ClipInfo of videos, StillInfo of images.
        cuts: whole ones.
        links_into: see `clip_path`.
    """
    work = partial(_probe_one, kind, (media_root.resolve(), *links_into), timeout_s)
    known = VideoCache(cache, media_root, kind, version=VERSION)
    for cut, answer in each_video(cuts, work, known, each, progress):
        yield cut.video, answer


def _probe_one(kind: type[Facts], roots: Sequence[Path], timeout_s: float, cut: Cut) -> Facts | ClipError:
    try:
        if kind is StillInfo:
            return kind(**ask_child(clip_path(roots[0], cut.video, roots[1:]), timeout_s, STILLS_CHILD))
        return kind(**ask_child(source_of(roots[0], cut, roots[1:]), timeout_s, CHILD))
    except ClipError as error:
        return error


def probe_here(path: Source) -> ClipInfo:
    """As `probe`, in this process and without a time limit. Of pictures all are decoded."""
    if isinstance(path, list):
        index = index_pictures(path, 1.0)
        decoded = decode_pictures(path, range(len(path)))
    else:
        index = index_packets(path)
        last = len(index.seconds) - 1
        decoded = decode_frames(path, index, {round(step * last / (FRAMES - 1)) for step in range(FRAMES)})
    _, first = next(decoded)
    for _ in decoded:
        pass
    show = how_shown(first, index.pixel_aspect)
    return ClipInfo(
        frames=len(index.seconds),
        fps=None if isinstance(path, list) else index.fps,
        duration=None if isinstance(path, list) else index.duration,
        width=show.width,
        height=show.height,
        rotation=90 * show.turns,
        mirrored=show.mirrored,
        codec=index.codec,
        pixel_format=first.format.name,
        variable_frame_rate=index.variable_frame_rate,
        sha256=content_of(path),
    )


if __name__ == "__main__":
    serve(probe_here)

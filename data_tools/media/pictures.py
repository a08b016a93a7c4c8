"""A video that is given as picture files, one a frame: a list of them, or a folder.

Frame k is shown at k / fps. The decoder of still images reads them, so that they are turned as their headers ask; from
there on they are frames like those of any other video.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.files import sha256
from data_tools.media.child import ClipError, clip_path
from data_tools.media.packets import PacketIndex
from data_tools.media.stills import opened, picture_of
from data_tools.sample import PICTURES, Cut

if TYPE_CHECKING:
    import av

Source = Path | list[Path]  # a video file, or its frames in order
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # of EXIF 2.3, 4.6.4: the sides of the picture change places


def source_of(media_root: Path, cut: Cut, links_into: Sequence[Path] = ()) -> Source:
    """The file of a video, or the files of its frames.

    Args:
        links_into: see `clip_path`; each frame has to stay inside, too.

    Raises:
        ClipError: a path leads outside, a folder holds no pictures, or a frame rate is given for a video that has one.
    """
    if cut.frames:
        return [clip_path(media_root, name, links_into) for name in cut.frames]
    path = clip_path(media_root, cut.video, links_into)
    if os.path.isdir(path):  # of a name that is too long for a file, False
        if not (pictures := pictures_in(path)):
            raise ClipError("no_video", f"{path} is a folder without pictures ({', '.join(PICTURES)})")
        return [clip_path(media_root, f"{cut.video}/{picture.name}", links_into) for picture in pictures]
    if cut.fps is not None and os.path.exists(path):
        raise ClipError("fps", f"{path} is a video file with a rate of its own: leave fps out, which is for pictures")
    return path


def pictures_in(folder: Path, suffixes: Sequence[str] = PICTURES) -> list[Path]:
    """The pictures of a folder in the order of their names, numbers in them by their value.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("f10.jpg", "f9.jpg", "labels.txt"):
        ...         Path(folder, name).touch()
        ...     [picture.name for picture in pictures_in(Path(folder))]
        ['f9.jpg', 'f10.jpg']
    """
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    parts = re.compile(r"(\d+)")
    return sorted(found, key=lambda path: [int(p) if p.isdecimal() else p for p in parts.split(path.name)])


def content_of(source: Source) -> str:
    """SHA-256 of a video file, or of the frames that a video is given as: the same in a list and in a folder."""
    if isinstance(source, Path):
        return sha256(source)
    return hashlib.sha256("".join(sha256(path) for path in source).encode()).hexdigest()


def index_pictures(paths: Sequence[Path], fps: float) -> PacketIndex:
    """When each picture is shown.

    Raises:
        ClipError: a single one, one that is no picture, or another size; the message names the picture.
    """
    if len(paths) < 2:
        raise ClipError("one_frame", "has a single frame, which shows no movement")
    first: tuple[int, int] | None = None
    for path in paths:
        with _naming(path), opened(path) as picture:
            wide, high = picture.size
            codec = picture.format or ""
            if picture.getexif().get(ORIENTATION) in QUARTER_TURNS:
                wide, high = high, wide
        first = first or (wide, high)
        if (wide, high) != first:
            raise ClipError("shape", f"{path.name} has {wide} x {high} pixels, the first frame {first[0]} x {first[1]}")
    return PacketIndex([number / fps for number in range(len(paths))], len(paths) / fps, 1.0, codec)


def decode_pictures(paths: Sequence[Path], wanted: Iterable[int]) -> "Iterator[tuple[int, av.VideoFrame]]":
    """(number, frame) of the pictures `wanted`, in order.

    Raises:
        ClipError: one does not decode; the message names it.
    """
    import av
    import numpy as np

    for number in sorted(set(wanted)):
        with _naming(paths[number]):
            picture, _ = picture_of(paths[number])
        yield number, av.VideoFrame.from_ndarray(np.asarray(picture), "rgb24")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Faults of a picture name it."""
    try:
        yield
    except ClipError as error:
        raise ClipError(error.reason, f"{path.name} {error.message}") from error

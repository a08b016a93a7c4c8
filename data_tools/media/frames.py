"""Frames of a video as players show them: decoded, in RGB, turned and mirrored, with square pixels."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from math import atan2, degrees
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_tools.media.child import ClipError
from data_tools.media.packets import MOST_PIXELS, PacketIndex, holds_frame, open_video, video_stream

if TYPE_CHECKING:
    import av

# Matrices that swscale converts, by their numbers in ISO/IEC 23091-2: BT.709, FCC, BT.601 (625 and
# 525 lines), SMPTE 240M, BT.2020. It takes BT.601 where none is stated, as ffmpeg does.
MATRICES = (1, 4, 5, 6, 7, 9, 10)
BT601, FULL_RANGE = 5, 2


def decode_frames(path: Path, index: PacketIndex, wanted: Iterable[int]) -> "Iterator[tuple[int, av.VideoFrame]]":
    """(number, frame) of the frames `wanted`, in the order in which they are shown; decodes little else.

    Raises:
        ClipError: a frame does not decode, or is damaged.
    """
    import av

    numbers = sorted(set(wanted))
    left = numbers[::-1]
    by_stamp = {index.stamps[number]: number for number in numbers} if index.stamps is not None else {}
    try:
        if by_stamp:
            for frame in _decoded(path, index, {stamp: index.packets[stamp] for stamp in by_stamp}):
                if left and by_stamp.get(frame.pts) == left[-1]:
                    yield left.pop(), frame
        if left:  # no stamps, or the decoder drops them, or it takes longer to start than the index says
            for count, frame in enumerate(_decoded(path, index)):
                number = by_stamp.get(frame.pts) if by_stamp and frame.pts is not None else count
                if left and number == left[-1]:
                    yield left.pop(), frame
    except av.FFmpegError as error:
        raise ClipError("undecodable", str(error)) from error
    if left:
        raise ClipError("undecodable", f"{len(left)} of {len(numbers)} frames do not decode")


def _decoded(
    path: Path, index: PacketIndex, only: Mapping[int, tuple[int, int]] | None = None
) -> "Iterator[av.VideoFrame]":
    """All frames in the order in which they are shown, or those with a stamp in `only` and what they refer to.

    Args:
        only: stamp -> index of its packet, and of the one where decoding for it begins.
    """
    needed = None if only is None else set(chain.from_iterable(range(begin, end + 1) for end, begin in only.values()))
    with open_video(path) as file:
        stream = video_stream(file)
        stream.thread_type = "NONE"  # each core decodes a video of its own
        decoder, idle = stream.codec_context, True
        decoder.options = {"max_pixels": str(MOST_PIXELS)}  # whatever the file's header says
        for number, packet in enumerate(filter(holds_frame, file.demux(stream))):
            if only is None or needed is None:
                yield from _whole(decoder.decode(packet) if number >= index.first_packet else ())
            elif number in needed:
                # No other frame refers to those that the decoder may skip.
                decoder.skip_frame = "DEFAULT" if packet.pts in only else "NONREF"
                yield from _whole(decoder.decode(packet))
                idle = False
            elif not idle:
                yield from _whole(decoder.decode(None))  # what the decoder still holds
                decoder.flush_buffers()
                idle = True
        if needed is None or not idle:
            yield from _whole(decoder.decode(None))


def _whole(frames: "Iterable[av.VideoFrame]") -> "Iterator[av.VideoFrame]":
    for frame in frames:
        if frame.is_corrupt:
            raise ClipError("undecodable", "holds a frame that is damaged")
        yield frame


class Show(NamedTuple):
    """How players show the frames of a file: turned counterclockwise by quarters, and then mirrored left to right.

    Attributes:
        turns: quarters, 0 to 3.
        width, height: pixels after that, and square.
    """

    turns: int
    mirrored: bool
    width: int
    height: int


def how_shown(frame: "av.VideoFrame", pixel_aspect: float) -> Show:
    """How a frame is shown, by its display matrix (ISO 14496-12, 8.5.2) and the aspect ratio of its pixels.

    Raises:
        ClipError: turned by something else than quarters.
    """
    width, height = frame.width, frame.height
    if pixel_aspect > 1:
        width = round(width * pixel_aspect)
    else:
        height = round(height / pixel_aspect)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Show(0, False, width, height)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    mirrored = a * d - b * c < 0
    angle = degrees(atan2(-b, -a if mirrored else a))
    turns = round(angle / 90)
    if abs(angle - 90 * turns) > 1:
        raise ClipError("turned", f"asks to be shown at an angle of {angle:.0f} degrees")
    if turns % 2:
        width, height = height, width
    return Show(turns % 4, mirrored, width, height)


class Converter:
    """Frames as RGB pictures, by the matrix and range that each states for its colours."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()

    def __call__(self, frame: "av.VideoFrame", show: Show, width: int, height: int) -> "av.VideoFrame":
        """The frame as it is shown, scaled to width x height."""
        import av
        import numpy as np

        colours = {}
        if frame.colorspace in MATRICES or frame.color_range == FULL_RANGE:
            matrix = frame.colorspace if frame.colorspace in MATRICES else BT601
            colours = {"src_colorspace": matrix, "dst_colorspace": BT601, "src_color_range": frame.color_range}
        before = (height, width) if show.turns % 2 else (width, height)
        picture = self._scaler.reformat(frame, *before, "rgb24", interpolation="BICUBIC", **colours)
        if not show.turns and not show.mirrored:
            return picture
        pixels: np.ndarray = np.rot90(picture.to_ndarray(), show.turns)
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:, ::-1] if show.mirrored else pixels), "rgb24")

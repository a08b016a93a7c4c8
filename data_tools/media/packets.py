"""When each frame of a video is shown, read from its packets, and decoding none of them where the file is whole."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_tools.files import bytes_at, mistaken
from data_tools.media.child import ClipError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ISO/IEC 23091-2
MISSING = 0.1  # share of what a header promises; headers are not exact
SAME_S = 1e-5  # starts that differ by less are the same, in different units
MOST_PIXELS = 2**27  # of a frame, twice those of 16 x 8 k; a file of some kilobytes may ask for 100 times as many
# Beginnings of files (FLV, MPEG-PS, SWF) whose streams FFmpeg finds behind the header: PyAV 16 crashes there with
# options, of which it has a set for each stream of the header.
LATE_STREAMS = (b"FLV", b"\0\0\1\xba", b"FWS", b"CWS")
# FFmpeg's formats that hold no frames, and name files or streams that do: anywhere, past `clip_path`.
NAME_OTHERS = ("concat", "dash", "hls", "image2", "lavfi", "rtp", "rtsp", "sap", "sdp")


@dataclass(frozen=True)
class PacketIndex:
    """When each frame of a video is shown.

    Frames that an edit list hides are not among them, nor are those at the beginning that refer to frames before it.

    Attributes:
        seconds: of the frames, in the order in which they are shown, from the start of the file as players count: the
            first one is above 0 where the picture begins later than the sound.
        duration: seconds until the end of the last frame.
        pixel_aspect: width of a pixel by its height.
        codec: in FFmpeg's words, e.g. h264.
        first_packet: index of the one where decoding begins.
        stamps: of the same frames, in ticks; None where decoded frames have to be counted, since the container has no
            times, or none of showing.
        packets: stamp -> index of its packet in decoding order, and of the packet where decoding for it has to begin.
    """

    seconds: list[float]
    duration: float
    pixel_aspect: float
    codec: str
    first_packet: int = 0
    stamps: list[int] | None = None
    packets: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def fps(self) -> float:
        """Frames per second, on average over all frames but the last one, which may stay."""
        return (len(self.seconds) - 1) / (self.seconds[-1] - self.seconds[0])

    @property
    def variable_frame_rate(self) -> bool:
        """Whether the steps between frames differ by more than 1 % of the mean or one tick."""
        if self.stamps is None:
            return False
        mean = (self.stamps[-1] - self.stamps[0]) / (len(self.stamps) - 1)
        return max(abs(after - before - mean) for before, after in pairwise(self.stamps)) > max(1.0, 0.01 * mean)

    def shown(self, times: Iterable[float]) -> list[int]:
        """Index of the frame shown at each time; of the first one, before it; of the last one, after the end."""
        return [max(0, bisect_right(self.seconds, time + 1e-6) - 1) for time in times]


class Packet(NamedTuple):
    """A packet as far as the index needs it; times in ticks, a duration of 0 is unknown."""

    stamp: int | None
    duration: int
    keyframe: bool
    hidden: bool
    cut: bool


def index_packets(path: Path) -> PacketIndex:
    """Read a video's packets.

    Raises:
        ClipError: no video, truncated, a single frame, or frames without times.
    """
    import av

    if what := mistaken(path):
        raise ClipError("no_video", what)
    try:
        with open_video(path) as container:
            return _index(path, container, video_stream(container))
    except av.FFmpegError as error:
        raise ClipError("undecodable", f"FFmpeg cannot read it: {error.strerror}") from error


def open_video(path: Path) -> Any:
    """PyAV's container of a file that may come from anybody: its frames are its own, not those of files that it names.

    Raises:
        ClipError: a playlist or a pattern of names. av.FFmpegError: PyAV cannot read it.
    """
    import av

    late = path.is_file() and bytes_at(path, 0, 4).startswith(LATE_STREAMS)
    limit = {} if late else {"max_pixels": str(MOST_PIXELS)}  # frames are decoded already when a file is opened
    container = av.open(str(path.absolute()), options=limit)  # a relative `concat:a` or `http:a` would be an address
    name = container.format.name
    if name in NAME_OTHERS and (name != "image2" or "%" in str(path)):  # without a pattern it is one picture
        container.close()
        raise ClipError("no_video", f"holds no video, but names other files ({name})")
    return container


def video_stream(container: "InputContainer") -> "VideoStream":
    """The first stream of moving pictures; cover art is none.

    Raises:
        ClipError: there is none.
    """
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise ClipError("no_video", "has no video stream")


def holds_frame(packet: "av.Packet") -> bool:
    """Not the empty packet at the end, nor one that stands for a frame which was dropped."""
    return bool(packet.size > 0)


def _index(path: Path, container: "InputContainer", stream: "VideoStream") -> PacketIndex:
    size = stream.codec_context.width, stream.codec_context.height
    if size[0] * size[1] > MOST_PIXELS:
        raise ClipError("too_large", f"has {size[0]} x {size[1]} pixels, more than {MOST_PIXELS:,}")
    if name := HDR.get(stream.codec_context.color_trc):
        raise ClipError("hdr", f"is HDR ({name}), which looks wrong unless its tones are mapped to SDR first")
    packets, end = _read(container, stream)
    _require_whole(container, stream, packets, end)
    first = next((number for number, packet in enumerate(packets) if packet.keyframe), 0)
    shown = [packet for packet in packets[first:] if not packet.hidden]
    if len(shown) < 2:
        webp = "; of an animated WebP FFmpeg reads no more: save it as GIF or MP4"
        only = webp if stream.codec_context.name == "webp" else ""
        raise ClipError("one_frame", f"has a single frame, which shows no movement{only}")
    aspect, codec = float(stream.sample_aspect_ratio or 1), stream.codec_context.name
    stamps = [packet.stamp for packet in shown if packet.stamp is not None]
    if len(stamps) < len(shown):
        # a raw stream has no header; its demuxer takes 25 frames per second, whatever the codec says
        rate = stream.average_rate if container.duration else stream.codec_context.framerate or stream.average_rate
        if not rate:
            raise ClipError("no_rate", "has neither times of its frames nor a frame rate")
        seconds = [number / float(rate) for number in range(len(shown))]
        return PacketIndex(seconds, len(shown) / float(rate), aspect, codec, first)
    counted = _times_of_decoding(container, stream, stamps)
    if not counted and (first or min(stamps) < stamps[0]):
        begin = _first_shown(path, first)
        shown = [packet for packet in shown if packet.stamp is not None and packet.stamp >= begin]
    # An AVI says when its packets are decoded; from where those of showing are counted differs.
    start = None if counted or container.format.name == "avi" else container.start_time
    seconds, duration = _times(shown, float(stream.time_base or 0), start)
    if counted:
        return PacketIndex(seconds, duration, aspect, codec, first)
    stamps = sorted(packet.stamp for packet in shown if packet.stamp is not None)
    return PacketIndex(seconds, duration, aspect, codec, first, stamps, _decoding_ranges(packets, first))


def _read(container: "InputContainer", stream: "VideoStream") -> tuple[list[Packet], float]:
    """The stream's packets in decoding order, and the time at which the last packet of all streams ends, in seconds."""
    packets, end = [], 0.0
    for packet in filter(holds_frame, container.demux()):
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == stream.index:
            flags = bool(packet.is_keyframe), bool(packet.is_discard), bool(packet.is_corrupt)
            packets.append(Packet(packet.pts, packet.duration or 0, *flags))
    return packets, end


def _require_whole(container: "InputContainer", stream: "VideoStream", packets: Sequence[Packet], end: float) -> None:
    """Refuse a file that ends before its header says it does.

    Args:
        end: of the last packet of all streams, in seconds.
    """
    tick, is_mov = float(stream.time_base or 0), "mov" in container.format.name
    shown = [(packet.stamp, packet.duration) for packet in packets if packet.stamp is not None and not packet.hidden]
    first = min((stamp for stamp, _ in shown), default=0) * tick
    last = max((stamp + duration for stamp, duration in shown), default=0) * tick
    if stream.frames and not is_mov:
        held = max(len(packets), round(last * float(stream.average_rate or 0)))  # an AVI counts frames that it dropped
        if held < (1 - MISSING) * stream.frames:
            raise ClipError("truncated", f"holds {held} of the {stream.frames} frames that its header promises")
    elif len(shown) > 1:
        promised, reached = (container.duration or 0) / 1e6, end
        if stream.frames:  # all that are coded, but an edit list hides some and leaves out others
            promised, reached = (stream.duration or 0) * tick, last - first
        if promised - reached > max(MISSING * promised, 2 * (last - first) / len(shown)):
            raise ClipError("truncated", f"ends after {reached:.2f} of the {promised:.2f} s that its header promises")
    if packets and packets[-1].cut:
        raise ClipError("undecodable", "is cut off in its last frame")


def _times_of_decoding(container: "InputContainer", stream: "VideoStream", stamps: Sequence[int]) -> bool:
    """Whether the stamps do not tell the order of showing, in which frames are coded in another one."""
    if len(set(stamps)) < len(stamps):
        return True
    in_order = all(before < after for before, after in pairwise(stamps))
    return stream.codec_context.has_b_frames and (in_order or container.format.name == "avi")


def _first_shown(path: Path, first_packet: int) -> int:
    """Stamp of the first frame that decodes: a cut leaves some that refer to what was cut off."""
    with open_video(path) as container:
        stream = video_stream(container)
        for number, packet in enumerate(filter(holds_frame, container.demux(stream))):
            for frame in stream.codec_context.decode(packet) if number >= first_packet else ():
                return frame.pts or 0
    raise ClipError("undecodable", "none of its frames decodes")


def _times(shown: Sequence[Packet], tick: float, start_us: int | None) -> tuple[list[float], float]:
    """When each frame is shown and the last one ends, in seconds from the start of the file.

    Args:
        tick: seconds.
        start_us: of the container, in microseconds; None takes the first frame for it.
    """
    stamps = sorted(packet.stamp for packet in shown if packet.stamp is not None)
    seconds = [(stamp - stamps[0]) * tick for stamp in stamps]
    if len(seconds) < 2 or seconds[-1] <= 0:
        raise ClipError("no_rate", "has no frame rate: all its frames have the same time")
    duration = seconds[-1] * len(stamps) / (len(stamps) - 1)
    lasts = max(packet.duration for packet in shown if packet.stamp == stamps[-1])
    if lasts and abs(lasts - (stamps[-1] - stamps[0]) / (len(stamps) - 1)) > 1:  # it stays, or the rate varies
        duration = seconds[-1] + lasts * tick
    # Before 0 there is only what players leave out: samples from which an audio decoder starts up.
    late = 0.0 if start_us is None else stamps[0] * tick - max(0, start_us) / 1e6
    if late > SAME_S:
        return [late + second for second in seconds], late + duration
    return seconds, duration


def _decoding_ranges(packets: Sequence[Packet], first: int) -> dict[int, tuple[int, int]]:
    """stamp -> index of its packet, and of the keyframe where decoding for it begins."""
    ranges: dict[int, tuple[int, int]] = {}
    key = before = first
    for number, packet in enumerate(packets[first:], first):
        if packet.keyframe:
            key, before = number, key
        key_stamp = packets[key].stamp
        if packet.stamp is None or packet.hidden:
            continue
        # What follows a keyframe and is shown before it also refers to what comes before the keyframe.
        ranges[packet.stamp] = number, before if key_stamp is not None and packet.stamp < key_stamp else key
    return ranges

"""Videos of many kinds, encoded on the spot by ffmpeg, and ffmpeg's own decode of them."""

import re
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FRAMES, FPS, WIDTH, HEIGHT = 32, "16", 128, 96
COLOURS = ((220, 30, 30), (30, 200, 30), (40, 40, 220), (235, 235, 235))  # of the corners


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A frame whose bars tell its number in bits, and whose corners tell how it is turned."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = np.linspace(90, 140, width).astype(np.uint8)[None, :, None]
    side = height // 3
    pixels[:side, :side], pixels[:side, -side:], pixels[-side:, :side], pixels[-side:, -side:] = COLOURS
    for bit in range(6):
        pixels[side + 2 : -side - 2, (bit + 1) * width // 8 : (bit + 2) * width // 8] = 235 if number >> bit & 1 else 16
    return pixels


@cache
def _pictures(frames: int, width: int, height: int) -> bytes:
    return b"".join(picture(number, width, height).tobytes() for number in range(frames))


def _ffmpeg(folder: Path, *arguments: str, pictures: bytes | None = None) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments]
    subprocess.run(command, cwd=folder, input=pictures, check=True, timeout=60)


@dataclass(frozen=True)
class encoded:  # noqa: N801 - reads as a verb in the list below
    arguments: tuple[str, ...]
    frames: int = FRAMES
    fps: str = FPS
    size: tuple[int, int] = (WIDTH, HEIGHT)

    def write(self, folder: Path, name: str) -> None:
        width, height = self.size
        raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", self.fps, "-i", "-")
        _ffmpeg(folder, *raw, *self.arguments, name, pictures=_pictures(self.frames, width, height))


@dataclass(frozen=True)
class copied:  # noqa: N801
    arguments: tuple[str, ...]

    def write(self, folder: Path, name: str) -> None:
        for source in FILES.keys() & set(self.arguments):
            make(folder, source)
        _ffmpeg(folder, *self.arguments, name)


@dataclass(frozen=True)
class edited:  # noqa: N801
    source: str
    change: Callable[[bytes], bytes]

    def write(self, folder: Path, name: str) -> None:
        (folder / name).write_bytes(self.change(make(folder, self.source).read_bytes()))


def make(folder: Path, name: str) -> Path:
    """The file of that name, made if it is not there."""
    if not (folder / name).exists():
        FILES[name].write(folder, name)
    return folder / name


def _shown_until(milliseconds: int, content: bytes) -> bytes:
    """An MP4 with its edit list (ISO 14496-12, 8.6.6) ended early, as phones trim."""
    edits = content.index(b"elst") + 4
    return content[: edits + 8] + struct.pack(">I", milliseconds) + content[edits + 12 :]


def _share(share: float, content: bytes) -> bytes:
    return content[: int(share * len(content))]


def _without_first_packets(content: bytes) -> bytes:
    """A transport stream that was tuned into: it begins between two keyframes."""
    return content[188 * 25 :]


X264 = ("-c:v", "libx264", "-preset", "veryfast", "-threads", "1", "-pix_fmt", "yuv420p", "-g", "12")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "12")
AV1 = ("-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p", "-g", "16", "-svtav1-params", "lp=1")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3", "-g", "12")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "3", "-bf", "2")
SOUND = ("-f", "lavfi", "-i", "sine=duration=3")
LASTS_20_S = ("-bsf:v", "setts=duration='if(eq(N,10),20/TB,DURATION)'")
UNEVEN = ("-vf", "setpts='(N+floor(N/10)*7)/16/TB'", "-fps_mode", "vfr")
OPEN = "log-level=none:keyint=12:open-gop=1:bframes=3:scenecut=0:pools=none:frame-threads=1"


def _tagged(matrix: str, name: str = "", full: bool = False) -> tuple[str, ...]:
    scale = f"scale=out_color_matrix={matrix}" + (":out_range=pc" if full else "")
    return ("-vf", scale, "-colorspace", name or matrix, *(("-color_range", "pc") if full else ()))


ENCODED: dict[str, tuple[str, ...]] = {
    **{f"h264.{kind}": X264 for kind in ("mp4", "mov", "mkv", "ts", "avi", "flv")},
    "no_b_frames.mp4": (*X264, "-bf", "0"),
    "no_b_frames.avi": (*X264, "-bf", "0"),
    "open_gop.mp4": (*X264, "-bf", "3", "-x264-params", "open-gop=1"),
    "pyramid.mp4": (*X264, "-bf", "4", "-x264-params", "b-pyramid=normal:b-adapt=0"),
    "refresh.mp4": (*X264, "-bf", "0", "-x264-params", "intra-refresh=1:keyint=12"),
    "interlaced.mp4": (*X264, "-flags", "+ilme+ildct"),
    "ten_bits.mp4": (*X264, "-pix_fmt", "yuv420p10le"),
    "444.mp4": (*X264, "-pix_fmt", "yuv444p"),
    "grey.mp4": (*X264, "-pix_fmt", "gray"),
    "rgb.mp4": ("-c:v", "libx264rgb", "-preset", "ultrafast", "-qp", "0"),
    "raw.h264": X264,
    "fragments.mp4": (*X264, "-movflags", "frag_keyframe+empty_moov"),
    "index_first.mp4": (*X264, "-movflags", "faststart"),
    "dash.mp4": (*X264, "-movflags", "dash+delay_moov+frag_keyframe+global_sidx"),
    "no_edit_list.mp4": (*X264, "-use_editlist", "0"),
    "hevc.mp4": (*X265, OPEN),
    "hevc.ts": (*X265, OPEN),
    "hevc_ten_bits.mkv": (*X265, "log-level=none", "-pix_fmt", "yuv420p10le"),
    "vp8.webm": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-cpu-used", "8", "-b:v", "300k"),
    "vp9.webm": (*VP9, "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.mp4": VP9,
    "alpha.webm": (*VP9, "-pix_fmt", "yuva420p", "-auto-alt-ref", "0"),
    "av1.mp4": AV1,
    "av1.webm": AV1,
    "vvc.mp4": ("-c:v", "libvvenc", "-preset", "faster", "-pix_fmt", "yuv420p10le", "-threads", "1"),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", "8", "-pix_fmt", "yuv420p"),
    "mpeg4.avi": MPEG4,
    "mpeg4.mp4": (*MPEG4, "-bf", "2"),
    "mpeg4_b_frames.avi": (*MPEG4, "-bf", "2"),
    "xvid.avi": ("-c:v", "libxvid", "-q:v", "3", "-bf", "2", "-g", "12"),
    "dropped.avi": (*MPEG4, "-vf", "select='mod(n,5)'", "-fps_mode", "vfr"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-q:v", "3", "-bf", "2", "-r", "24"),
    "mpeg2.mpg": (*MPEG2, "-r", "24"),
    "mpeg2.ts": (*MPEG2, "-r", "24"),
    "wmv2.wmv": ("-c:v", "wmv2", "-q:v", "3"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"),
    "prores.mov": ("-c:v", "prores_ks"),
    "huffyuv.avi": ("-c:v", "huffyuv"),
    "png.mov": ("-c:v", "png"),
    "rawvideo.avi": ("-c:v", "rawvideo", "-pix_fmt", "yuv420p"),
    "raw.y4m": ("-pix_fmt", "yuv420p"),
    "h263.3gp": ("-c:v", "h263", "-q:v", "3", "-s", "128x96"),
    "flv1.flv": ("-c:v", "flv", "-q:v", "3"),
    "rv20.rm": ("-c:v", "rv20", "-q:v", "3"),
    "movie.gif": (),
    "movie.apng": ("-f", "apng"),
    "bt601.mp4": (*X264, *_tagged("bt601", "smpte170m")),
    "bt709.mp4": (*X264, *_tagged("bt709")),
    "bt2020.mp4": (*X264, *_tagged("bt2020", "bt2020nc")),
    "smpte240m.mp4": (*X264, *_tagged("smpte240m")),
    "bt709_ten_bits.mkv": (*X264, "-pix_fmt", "yuv420p10le", *_tagged("bt709")),
    "bt709_full.mp4": (*X264, *_tagged("bt709", full=True)),
    "bt709_full.webm": (*VP9, *_tagged("bt709", full=True)),
    "full.mp4": (*X264, "-vf", "scale=out_range=pc", "-color_range", "pc"),
    "wide_pixels.mp4": (*X264, "-vf", "setsar=2/1"),
    "high_pixels.mkv": (*X264, "-vf", "setsar=1/2"),
    "uneven.mp4": (*X264, *UNEVEN),
    "uneven.mkv": (*X264, *UNEVEN),
    "uneven.gif": UNEVEN,
    "gap.mp4": (*X264, "-vf", "setpts='(N+96*gte(N,20))/16/TB'", "-fps_mode", "vfr"),
}
COPIED = {
    "cut_b_frames.mp4": ("-ss", "1.3", "-i", "h264.mp4"),
    "cut_short.mov": ("-ss", "0.9", "-t", "0.6", "-i", "h264.mp4"),
    "cut_early.mp4": ("-ss", "0.3", "-i", "h264.mp4"),
    "cut_no_b_frames.mp4": ("-ss", "1.3", "-i", "no_b_frames.mp4"),
    "cut_mpeg4.mp4": ("-ss", "0.3", "-i", "mpeg4.mp4"),
    "cut_hevc.mp4": ("-ss", "1.3", "-i", "hevc.mp4"),
    "cut_vp9.mp4": ("-ss", "0.3", "-i", "vp9.mp4"),
    "cut_av1.mp4": ("-ss", "0.3", "-i", "av1.mp4"),
    "cut.mkv": ("-ss", "1.3", "-i", "h264.mp4"),
    "cut.ts": ("-ss", "1.3", "-i", "h264.mp4"),
    "cut_mpeg2.ts": ("-ss", "0.9", "-i", "mpeg2.ts"),
    "turned_90.mp4": ("-display_rotation", "90", "-i", "h264.mp4"),
    "turned_180.mp4": ("-display_rotation", "180", "-i", "h264.mp4"),
    "turned_270.mp4": ("-display_rotation", "270", "-i", "h264.mp4"),
    "mirrored.mp4": ("-display_hflip", "-i", "h264.mp4"),
    "mirrored.mkv": ("-display_hflip", "-i", "h264.mp4"),
    "upside_down.mp4": ("-display_vflip", "-i", "h264.mp4"),
    "turned_mirrored.mp4": ("-display_rotation", "90", "-display_hflip", "-i", "h264.mp4"),
    "turned_45.mp4": ("-display_rotation", "45", "-i", "h264.mp4"),
    "later.mp4": ("-itsoffset", "5", "-i", "h264.mp4"),
    "later.mkv": ("-itsoffset", "5", "-i", "h264.mp4"),
    "two_videos.mkv": ("-i", "h264.mp4", "-i", "vp9.webm", "-map", "0", "-map", "1"),
    "cover.mp4": ("-i", "cover.png", "-i", "h264.mp4", "-map", "0", "-map", "1", "-disposition:v:0", "attached_pic"),
    "stays.mp4": ("-i", "slides.mp4", *LASTS_20_S),
    "stays.mkv": ("-i", "slides.mp4", *LASTS_20_S),
}
WITH_SOUND = {
    **{f"sound.{kind}": ("-i", "h264.mp4", *SOUND) for kind in ("mp4", "mkv", "ts")},
    **{f"late.{kind}": ("-itsoffset", "1.5", "-i", "h264.mp4", *SOUND) for kind in ("mp4", "mkv", "ts")},
}
FILES: dict[str, encoded | copied | edited] = {
    **{name: encoded(arguments) for name, arguments in ENCODED.items()},
    "small.mp4": encoded(X264, size=(48, 32)),
    "small.gif": encoded((), size=(16, 16)),
    "odd.mkv": encoded(("-c:v", "ffv1", "-pix_fmt", "yuv420p"), size=(129, 97)),
    "dvd.mpg": encoded((*MPEG2, "-r", "25", "-aspect", "16:9"), size=(180, 144)),
    "fast.mp4": encoded(X264, fps="1000"),
    "slow.mp4": encoded(X264, frames=10, fps="0.5"),
    "ntsc.mp4": encoded(X264, frames=60, fps="30000/1001"),
    "two_frames.mp4": encoded(X264, frames=2),
    "slides.mp4": encoded((*X264, "-bf", "0"), frames=11, fps="1"),
    "cover.png": encoded((), frames=1),
    "pq.mp4": encoded((*X265, "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc")),
    "hlg.mkv": encoded((*X265, "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc")),
    **{name: copied((*arguments, "-c", "copy")) for name, arguments in COPIED.items()},
    **{
        name: copied((*arguments, "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "aac"))
        for name, arguments in WITH_SOUND.items()
    },
    "trimmed.mp4": edited("h264.mp4", partial(_shown_until, 1200)),
    "tuned_in.ts": edited("h264.ts", _without_first_packets),
    "tuned_in_hevc.ts": edited("hevc.ts", _without_first_packets),
    "half.mkv": edited("h264.mkv", partial(_share, 0.6)),
    "half.webm": edited("vp9.webm", partial(_share, 0.6)),
    "half.flv": edited("h264.flv", partial(_share, 0.6)),
    "half.avi": edited("mpeg4.avi", partial(_share, 0.8)),
    "half.mp4": edited("index_first.mp4", partial(_share, 0.6)),
}


@dataclass(frozen=True)
class Decoded:
    """What ffmpeg shows of a file: frames of a given size, their seconds, and the second in which the last one ends."""

    seconds: list[float]
    end: float
    frames: np.ndarray

    def at(self, second: float) -> int:
        """Index of the frame on show."""
        return max((number for number, begins in enumerate(self.seconds) if begins <= second + 1e-5), default=0)


def ffmpeg_decode(path: Path, width: int, height: int) -> Decoded:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-threads", "1", "-i", str(path), "-map", "0:V:0"]
    command += ["-fps_mode", "passthrough", "-vf", f"showinfo,scale={width}:{height}:flags=bicubic,format=rgb24"]
    # the sound is read, too, since seconds count from the first stream that is read
    command += ["-f", "rawvideo", "-", "-map", "0:a?", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    shown = re.findall(r" pts_time:(\S+) .*? duration_time:(\S+)", done.stderr.decode(errors="replace"))
    first = float(shown[0][0]) if path.suffix == ".avi" else 0.0  # has no times of showing; ffmpeg adds a delay
    seconds = [float(second) - first for second, _ in shown]
    frames = np.frombuffer(done.stdout, np.uint8).reshape(len(shown), height, width, 3)
    return Decoded(seconds, seconds[-1] + float(shown[-1][1]), frames)

"""Videos as users have them, made on the spot."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    frames: int = 8,
    width: int = 96,
    height: int = 64,
    fps: int = 8,
    pixel_format: str = "yuv420p",
    times_ms: list[int] | None = None,
    seed: int = 0,
    **options: str,
) -> Path:
    """A moving pattern as H.264; `times_ms` gives each frame its own time."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (height, width, 3), np.uint8)
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=fps, options={"threads": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * number, axis=1), format="rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def truncated(path: Path, share: float) -> Path:
    """A video whose index stands in front, cut off after a share of its bytes."""
    content = write_video(path, frames=40, movflags="faststart").read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def rotated(path: Path) -> Path:
    """A video whose header asks to turn it by a quarter: the matrix of its track (ISO 14496-12, 8.3.2)."""
    content = bytearray(write_video(path).read_bytes())
    matrix = content.find(b"tkhd") + 4 + 4 + 20 + 16
    one, w = 1 << 16, 1 << 30
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, w)
    path.write_bytes(content)
    return path


def without_rate(path: Path) -> Path:
    """A video all of whose frames last 0 ticks (ISO 14496-12, 8.6.1.2)."""
    content = bytearray(write_video(path).read_bytes())
    struct.pack_into(">I", content, content.find(b"stts") + 16, 0)
    path.write_bytes(content)
    return path

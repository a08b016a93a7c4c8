"""What a video file holds, found out in a child process: broken files hang or crash the decoders that read them.

Children stay alive and serve one file after another, one per caller at a time; one that hangs or crashes is replaced.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import file_digest
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN_S = 120
LOOKS = 4  # frames that are decoded, evenly spread; the last one tells a truncated file
CHILD = (sys.executable, "-P", "-m", "data_tools.probe")


class ClipError(ValueError):
    """A video that cannot be used.

    Attributes:
        reason: one word for counting, e.g. `missing`, `empty`, `no_video`, `one_frame`, `undecodable`, `timeout`.
        message: what is wrong with the file, in a sentence.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return ClipError, (self.reason, self.message)  # else its text alone would be pickled, by Ray for one


@dataclass(frozen=True)
class ClipInfo:
    """A video that decodes.

    Attributes:
        frames: their number.
        fps: frames per second, on average.
        duration: seconds.
        width, height: pixels of a frame as it is shown, that is, after rotation.
        rotation: degrees (counterclockwise, 0 to 359) by which the file asks players to turn its frames.
        codec, pixel_format: in FFmpeg's words, e.g. h264, yuv420p10le.
        variable_frame_rate: whether the steps between frames differ by more than 1 % of the mean or one tick.
        sha256: of the file's bytes.
    """

    frames: int
    fps: float
    duration: float
    width: int
    height: int
    rotation: int
    codec: str
    pixel_format: str
    variable_frame_rate: bool
    sha256: str


class Child:
    """A process that answers one JSON line, {path, timeout_s}, with another; `command` starts it."""

    def __init__(self, command: tuple[str, ...] = CHILD) -> None:
        self.command = command
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders chatter about what ends in the answer anyway
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            bufsize=0,
        )
        self.alive = True
        if not self._line(STARTS_WITHIN_S):  # an empty answer, once it has imported its decoders
            self.close()
            raise RuntimeError(f"no child process to decode videos in: {' '.join(command)} does not start")

    def ask(self, path: Path, timeout_s: float) -> dict[str, Any]:
        """The answer, or the reason why there is none; the child is gone then."""
        try:
            self._process.stdin.write(json.dumps({"path": str(path), "timeout_s": timeout_s}).encode() + b"\n")
            line = self._line(timeout_s)
        except BrokenPipeError:
            line = b""
        if line:
            return json.loads(line)
        self.close()
        if line is None:
            return {"reason": "timeout", "message": f"decoding did not end within {timeout_s:g} s"}
        return {"reason": "crash", "message": f"the decoder crashed (exit status {self._process.returncode})"}

    def _line(self, timeout_s: float) -> bytes | None:
        """The next line; empty when the process has ended, None when it says nothing in time."""
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else None

    def close(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


_idle: deque[Child] = deque()
os.register_at_fork(after_in_child=_idle.clear)  # a fork must not talk to the children of its parent


def clip_path(media_root: Path, video: str) -> Path:
    """Where a sample's video lies.

    Raises:
        ClipError: outside the media root, by `..`, an absolute path or a symbolic link.
    """
    path = media_root / video
    if not path.resolve().is_relative_to(media_root.resolve()):
        raise ClipError("outside", f"{video} leads out of {media_root}")
    return path


def probe(path: Path, timeout_s: float = 20, command: tuple[str, ...] = CHILD) -> ClipInfo:
    """Decode `LOOKS` frames of a video with decord, and read its container with PyAV for a second opinion.

    May be called from several threads or processes at once.

    Raises:
        ClipError: the file is missing, empty, no video, broken, of one frame or without a rate, or takes too long.
    """
    return ClipInfo(**ask(path, timeout_s, command))


def ask(path: Path, timeout_s: float, command: tuple[str, ...]) -> dict[str, Any]:
    """What a child that `command` starts says of a video; it runs `serve`.

    Raises:
        ClipError: the file is missing or empty, the child says so, crashes, or takes too long.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ClipError("missing", f"{path}: {error.strerror}") from error
    if not S_ISREG(status.st_mode):
        raise ClipError("no_file", f"{path} is no regular file")
    if not status.st_size:
        raise ClipError("empty", f"{path} holds no byte")
    try:
        child = _idle.pop()
    except IndexError:
        child = Child(command)
    if child.command != command:  # left over from other work
        child.close()
        child = Child(command)
    answer = child.ask(path, timeout_s)
    if child.alive:
        _idle.append(child)
    if "reason" in answer:
        raise ClipError(answer["reason"], f"{path}: {answer['message']}")
    return answer


def look(path: Path) -> ClipInfo:
    """As `probe`, in this process and without a time limit."""
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        file.seek(0)
        sha256 = file_digest(file, "sha256").hexdigest()
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise ClipError("no_video", "is a web page, as a failed download leaves it")
    container = _container(path)
    width, height = _decoded(path)
    return ClipInfo(**container, width=width, height=height, sha256=sha256)


def _container(path: Path) -> dict[str, Any]:
    """What PyAV finds: time stamps of all packets, and the first frame."""
    import av

    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ClipError("no_video", "has no video stream")
            stream = file.streams.video[0]
            packets = [packet for packet in file.demux(stream) if packet.size]
            promised = stream.frames
            stamps = sorted(stamp for p in packets if (stamp := p.dts if p.pts is None else p.pts) is not None)
            tick = float(stream.time_base)
        with av.open(str(path)) as file:
            first = next(file.decode(video=0))
            codec, pixel_format = file.streams.video[0].codec_context.name, first.format.name
    except (av.FFmpegError, StopIteration) as error:
        raise ClipError("undecodable", f"PyAV cannot read it: {error or 'no frame'}") from error
    if len(packets) < 0.9 * promised:
        raise ClipError("truncated", f"holds {len(packets)} of the {promised} frames that its header promises")
    if len(packets) < 2:
        raise ClipError("one_frame", "has a single frame, which shows no movement")
    mean = (stamps[-1] - stamps[0]) / (len(stamps) - 1) if len(stamps) > 1 else 0
    if mean <= 0:
        raise ClipError("no_rate", "has no frame rate: all its frames stand at the same time")
    uneven = max(abs(after - before - mean) for before, after in pairwise(stamps))
    return {
        "frames": len(packets),
        "fps": 1 / (mean * tick),
        "duration": len(packets) * mean * tick,
        "rotation": round(first.rotation) % 360,
        "codec": codec,
        "pixel_format": pixel_format,
        "variable_frame_rate": uneven > max(1.0, 0.01 * mean),
    }


def _decoded(path: Path) -> tuple[int, int]:
    """Width and height of the frames that decord gives."""
    import decord

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        for number in sorted({round(place * (len(reader) - 1) / (LOOKS - 1)) for place in range(LOOKS)}):
            height, width, channels = reader[number].shape
    except (decord.DECORDError, RuntimeError) as error:
        # decord's messages are stack traces; the first line says it all
        raise ClipError("undecodable", f"decord cannot decode it: {str(error).splitlines()[0]}") from error
    if channels != 3:
        raise ClipError("undecodable", f"decord gives {channels} channels, as it does for frames under 64 pixels")
    return width, height


def serve(work: Callable[[Path], Any] = look) -> None:
    """Answer the requests on standard input, each by the fields of `work(path)`, until it closes."""
    import av  # noqa: F401
    import decord  # noqa: F401

    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a decoder prints is no answer
    answers.write(b"{}\n")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + 5)  # ends us even where our parent is gone
        try:
            answer = asdict(work(Path(request["path"])))
        except ClipError as error:
            answer = {"reason": error.reason, "message": error.message}
        except OSError as error:
            answer = {"reason": "missing", "message": str(error.strerror)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    serve()

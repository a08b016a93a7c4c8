"""Decode videos in child processes, since broken files hang or crash the decoders that read them.

A child stays alive and serves one file after another, one per caller at a time. A child that hangs or crashes is
replaced.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path, PurePath
from stat import S_ISREG
from types import MappingProxyType
from typing import Any
from unicodedata import normalize

import psutil

from rewards.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN_S = 120
PATIENCE = 10  # times a video's time that a process gets while others take its core


class ClipError(UserError):
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


class Child:
    """A process that answers one JSON line, {path or paths, timeout_s, settings}, with another; `command` starts it."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders' warnings; their errors are in the answer
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.alive = True
        if not self._line(STARTS_WITHIN_S):  # an empty answer, once it has imported its decoders
            self.close()
            raise RuntimeError(f"no child process to decode videos in: {' '.join(command)} does not start")

    def ask(self, source: Path | list[Path], timeout_s: float, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; or, with the child closed, the reason why there is none."""
        line: bytes | None
        try:
            path = [str(one) for one in source] if isinstance(source, list) else str(source)
            request = {"path": path, "timeout_s": timeout_s, "settings": dict(settings)}
            self._in.write(json.dumps(request).encode() + b"\n")
            line = self._line(timeout_s)
        except BrokenPipeError:
            line = b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        if line is None:
            return {"reason": "timeout", "message": f"decoding did not end within {timeout_s:g} s"}
        return {"reason": "crash", "message": f"the decoder crashed (exit status {self._process.returncode})"}

    def _line(self, timeout_s: float) -> bytes | None:
        """The next line; empty when the process has ended, None when it writes nothing in time.

        On a busy machine that is what the process computes for, since a sound video must not be left out there. One
        that computes nothing hangs.
        """
        process, end = psutil.Process(self._process.pid), time.monotonic() + PATIENCE * timeout_s
        before = last = _cpu_seconds(process)
        while True:
            if select.select([self._out], [], [], timeout_s)[0]:
                return self._out.readline()
            spent = _cpu_seconds(process)
            if spent == last or spent - before >= timeout_s or time.monotonic() > end:
                return None
            last = spent

    def close(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


_idle: deque[Child] = deque()
os.register_at_fork(after_in_child=_idle.clear)  # a fork must not talk to the children of its parent


def clip_path(media_root: Path, video: str, links_into: Sequence[Path] = ()) -> Path:
    """Path of a sample's video.

    Args:
        links_into: folders that symbolic links may lead into, besides the media root.

    Raises:
        ClipError: outside the media root, by `..`, an absolute path or a symbolic link to anywhere else.
    """
    path = media_root / video
    if PurePath(video).is_absolute() or ".." in PurePath(video).parts:
        raise ClipError("outside", f"{video} leads out of the media root {media_root}")
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long or no text, a circle of links
        raise ClipError("missing", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not any(real.is_relative_to(root.resolve()) for root in (media_root, *links_into)):
        raise ClipError(
            "outside", f"{video} leads out of the media root {media_root}, to {real}: name a folder of it in links_into"
        )
    return path


def _meant(path: Path) -> str:
    """What to do where a missing file is there under other letters: labels come from other systems, or from hands."""
    with suppress(OSError):
        found = _by_plain_name(path.parent, path.parent.stat().st_mtime_ns).get(_plain(path.name))
        if found is not None and normalize("NFC", found) == normalize("NFC", path.name):
            return f"; its name is there in another Unicode form, {ascii(found)}: rename it, or write it so"
        return f"; is {found!r} meant?" if found is not None else ""
    return ""


def _plain(name: str) -> str:
    return normalize("NFC", name).casefold().strip()


@lru_cache(maxsize=16)
def _by_plain_name(folder: Path, changed_ns: int) -> dict[str, str]:
    """File by its name, and by that without ending, in plain letters; read once as long as the folder is the same."""
    names = sorted(os.listdir(folder), reverse=True)
    return {_plain(Path(name).stem): name for name in names} | {_plain(name): name for name in names}


def ask_child(
    source: Path | list[Path],
    timeout_s: float,
    command: tuple[str, ...],
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a child that `command` starts, and that runs `serve`, answers about a video.

    Args:
        source: its file, or those of its frames.
        settings: given to its work by name.

    Raises:
        ClipError: the file is missing or empty, the child says so, crashes, or takes too long.
    """
    files = source if isinstance(source, list) else [source]
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise ClipError("missing", f"{path}: {error.strerror}{_meant(path)}") from error
        if not S_ISREG(status.st_mode):
            raise ClipError("no_file", f"{path} is not a regular file")
        if not status.st_size:
            raise ClipError("empty", f"{path} is empty")
    try:
        child = _idle.pop()
    except IndexError:
        child = Child(command)
    if child.command != command:  # left over from other work
        child.close()
        child = Child(command)
    answer = child.ask(source, timeout_s, settings)
    if child.alive:
        _idle.append(child)
    if "reason" in answer:
        where = source if isinstance(source, Path) else source[0].parent
        raise ClipError(answer["reason"], f"{where}: {answer['message']}")
    return answer


def serve(work: Callable[..., Any]) -> None:
    """Answer the requests on standard input, each by the fields of `work(path, **settings)`, until it closes."""
    import av  # noqa: F401

    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a decoder prints is not an answer
    answers.write(b"{}\n")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Ends this process even if its parent is gone.
        signal.setitimer(signal.ITIMER_REAL, (PATIENCE + 1) * request["timeout_s"] + 5)
        try:
            path = request["path"]
            source = Path(path) if isinstance(path, str) else [Path(one) for one in path]
            answer = asdict(work(source, **request["settings"]))
        except ClipError as error:
            answer = {"reason": error.reason, "message": error.message}
        except OSError as error:
            answer = {"reason": "missing", "message": str(error.strerror)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")

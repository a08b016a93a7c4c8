"""Whether two mathematical answers are equal: math-verify, in a process of its own.

sympy evaluates what it reads. An answer such as 9^{9^{9^9}} takes all memory and time, and no signal handler runs
before it is done (nor could a reward loop's threads set one); a process can be killed.
"""

import json
import os
import select
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from rewards.errors import UserError

MAX_LENGTH = 1000  # characters; longer texts are not an answer
TIMEOUT = 300.0  # seconds for a reply, on a busy machine and with the import of sympy
WORKER = Path(__file__).with_name("maths_worker.py")


class MathsError(UserError):
    """The process that compares answers does not start."""


@lru_cache(maxsize=1 << 16)  # a group's rollouts give the same few answers
def equal(answer: str, gold: str) -> bool:
    """Whether `answer` is mathematically equal to `gold`; both are one expression, in LaTeX or plain.

    Raises:
        ValueError: `gold` is not an expression; never because of `answer`.
        MathsError: math-verify cannot be started.

    Example:
        >>> equal("0.5", r"\\frac{1}{2}")
        True
    """
    if len(answer) > MAX_LENGTH:
        answer = ""
    verdict = _comparer.ask(answer, gold)
    if verdict == "gold":
        raise ValueError(f"gold answer {gold!r} is not a mathematical expression")
    return verdict == "equal"


class _Comparer:
    """One child process, started at the first question; the lock makes it serve one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, answer: str, gold: str) -> str:
        with self._lock:
            process = self._process or self._start()
            verdict = _exchange(process, json.dumps([answer, gold]))
            self._process = process if verdict else None
            if not verdict:  # out of time or memory
                _stop(process)
            return verdict

    def _start(self) -> "subprocess.Popen[str]":
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            env=keep,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if _exchange(process, None) != "ready":
            _stop(process)
            raise MathsError(f"math-verify does not start; `{sys.executable} {WORKER}` shows why")
        return process


def _exchange(process: "subprocess.Popen[str]", line: str | None) -> str:
    """The reply to `line`; empty if the process ends without one."""
    assert process.stdin and process.stdout
    try:
        if line is not None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
    except BrokenPipeError:
        return ""
    ready, _, _ = select.select([process.stdout], [], [], TIMEOUT)
    return process.stdout.readline().strip() if ready else ""


def _stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


_comparer = _Comparer()


def _forget() -> None:
    """Start a process of its own in a forked child, which must not read its parent's replies."""
    global _comparer
    _comparer = _Comparer()


os.register_at_fork(after_in_child=_forget)

"""Whether two mathematical answers are equal: math-verify, in a process of its own.

sympy evaluates what it reads. An answer such as 9^{9^{9^9}} takes all memory and time, and no signal handler runs
before it is done (a reward loop's threads could not set one anyway); a process can be ended.
"""

import json
import os
import select
import subprocess
import sys
import threading
from functools import lru_cache

MAX_LENGTH = 1000  # characters; no answer that a problem asks for is longer
TIME_LIMIT = 3.0  # seconds of processor time for one comparison; what takes longer is not equal
PATIENCE = 300.0  # seconds until a reply on the busiest machine, the import of sympy included
MEMORY = 2 << 30  # bytes


class MathsError(RuntimeError):
    """The process that compares answers does not start."""


@lru_cache(maxsize=1 << 16)  # a group's rollouts give the same few answers
def equal(answer: str, gold: str) -> bool:
    """Whether `answer` is mathematically equal to `gold`; both are one expression, in LaTeX or plain.

    Raises:
        ValueError: `gold` is no expression; never because of `answer`.
        MathsError
    """
    if len(answer) > MAX_LENGTH:
        answer = ""
    verdict = _comparer.ask(answer, gold)
    if verdict == "gold":
        raise ValueError(f"gold answer {gold!r} is no mathematical expression")
    return verdict == "equal"


class _Comparer:
    """One child process, started when first asked; the lock makes it serve one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def ask(self, answer: str, gold: str) -> str:
        with self._lock:
            if self._process is None:
                self._start()
            verdict = self._exchange(json.dumps([answer, gold]))
            if not verdict:  # out of time or memory
                self._stop()
            return verdict

    def _start(self) -> None:
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([sys.executable, "-P", __file__], env=keep, text=True, **pipes)
        if self._exchange(None) != "ready":
            self._stop()
            raise MathsError(f"math-verify does not start; `{sys.executable} {__file__}` shows why")

    def _exchange(self, line: str | None) -> str:
        """The reply to `line`; empty when the process ends without one."""
        try:
            if line is not None:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        return self._process.stdout.readline().strip() if ready else ""

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._process = None


_comparer = _Comparer()
os.register_at_fork(after_in_child=lambda: _comparer.__init__())  # a fork must not read its parent's replies


def _serve() -> None:
    import logging
    import resource
    import signal

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # parsers write notices to the standard output
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    @lru_cache(maxsize=64)  # the gold answer, while its group is scored
    def parsed(text: str) -> list:
        """As one expression: without dollar signs, math-verify would pick the last number of any text."""
        return parse(text if "$" in text or "\\boxed" in text else f"${text}$", parsing_timeout=None)

    def reply(text: str) -> None:
        replies.write(text + "\n")
        replies.flush()

    reply("ready")
    for line in sys.stdin:
        answer, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)  # without a handler: the kernel ends us, whatever we are in
        expected = parsed(gold)
        if not expected or isinstance(expected[0], str):
            reply("gold")
        else:
            reply("equal" if verify(expected, parsed(answer), timeout_seconds=None) else "different")


if __name__ == "__main__":
    _serve()

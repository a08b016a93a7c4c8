"""What a check has found."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

State = Literal["ok", "doubtful", "wrong", "not needed"]


class Finding(NamedTuple):
    """One line of the doctor's page; `remedy` is empty where nothing is to be done."""

    name: str
    state: State
    seen: str
    remedy: str = ""


def output_of(command: Sequence[str], seconds: float = 60, env: Mapping[str, str] | None = None) -> str | None:
    """What a program prints; None where there is none of this name, or it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

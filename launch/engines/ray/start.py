"""Start Ray nodes of a run's own, in a process beside it (`node.py`): once more if they fail, and with Ray's error."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

ATTEMPTS = 2
NODE = "launch.engines.ray.node"
SAID = "node.err"  # what the process that starts the nodes wrote, in their folder
# "[2026-01-31 12:00:00,000 C 17 17] (raylet) node_manager.cc:3576:  An unexpected … to fix it. Check failed: …"
_FAULT = re.compile(r"\[[^]]* ([EC]) \d+ \d+\] \((\w+)\) (?:\S+:)?\s*(?:An unexpected .* to fix it\. )?(.+)")


@dataclass(frozen=True)
class Nodes:
    """Running Ray nodes: address of the cluster, process id of the first raylet, and the process that they end with."""

    address: str
    raylet: int
    process: "subprocess.Popen[str]"


def start_nodes(settings: Mapping[str, Any], count: int = 1) -> Nodes:
    """Start `count` nodes on this machine, which end with this process.

    Args:
        settings: of `ray.init`; `_temp_dir` is made here.

    Raises:
        RuntimeError: they did not start; with Ray's last error.
    """
    folder = Path(settings["_temp_dir"])
    folder.mkdir(mode=0o700, parents=True)
    command = [sys.executable, "-m", NODE, json.dumps(settings), str(count)]
    failures: list[str] = []
    while len(failures) < ATTEMPTS:
        with (folder / SAID).open("wb") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
            )
        if line := cast(IO[str], process.stdout).readline():
            return Nodes(**json.loads(line), process=process)
        failures.append(f"Ray did not start (exit code {process.wait()}): {last_error(folder)}")
        sys.stderr.write(f"{(folder / SAID).read_text(errors='replace')}{failures[-1]}\n")
    raise RuntimeError(f"{failures[-1]}; {ATTEMPTS} attempts")


def last_error(folder: Path) -> str:
    """What the nodes of `folder` failed of: the last words of the process that starts them, and of their daemons."""
    lines = (folder / SAID).read_text(errors="replace").splitlines()
    words = [line.strip() for line in lines if line.strip()][-1:] or ["it said nothing"]
    faults: dict[str, str] = {}  # by level
    for daemon in ("gcs_server", "raylet"):
        for path in sorted((folder / "session_latest" / "logs").glob(f"{daemon}.*")):
            found = _FAULT.findall(path.read_text(errors="replace"))
            faults |= {level: f"{name}: {text.strip()}" for level, name, text in found}
    return "; ".join([*words, *filter(None, [faults.get("C") or faults.get("E")])])

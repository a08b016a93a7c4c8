"""The smaller demo's stages as a user starts them."""

import json
import os
import shutil
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import psutil

from launch.stages import STAGES

SMALL = [
    "data.rendered.sft={clips: 60, binary: 96, choice: 32, confusable: 0.25}",
    "data.rendered.rl={clips: 30, binary: 24, choice: 16, confusable: 0.7}",
    "data.rendered.test={clips: 30, binary: 60, choice: 15, confusable: 0.5}",
    "data.rendered.val={clips: 15, binary: 16, choice: 4, confusable: 0.5}",
    "rl.held_out.every=2",
    "model.warm_up.steps=20",
    "sft.num_train_epochs=2",
    "rl.steps=4",
    "rl.rollout_batch_size=8",
    "rl.global_batch_size=4",
    "rl.group_size=4",
    "rl.micro_batch_size_per_gpu=8",
    "rl.save_every=2",
]


def command(stage: str, runs: Path, name: str = "main", *overrides: str) -> list[str]:
    chosen = [] if any(override.startswith("experiment=") for override in overrides) else ["experiment=demo"]
    rendered = "data=files" not in overrides
    small = [setting for setting in SMALL if rendered or not setting.startswith("data.rendered")]
    settings = [*chosen, f"runs={runs}", f"name={name}", *small, *overrides]
    return [sys.executable, "-m", f"launch.{stage}", *settings]


def run(stage: str, runs: Path, name: str = "main", *overrides: str) -> str:
    started = command(stage, runs, name, *overrides)
    mark = runs / "demo" / name
    done = subprocess.run(started, capture_output=True, text=True, timeout=900, env=marked(mark))
    assert done.returncode == 0, f"{stage}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert left_behind(mark, seconds=10) == []
    return done.stdout


OUTPUT = {"data": "data", "model": "model", "sft": "sft", "rl": "rl", "merge": "merged", "evaluate": "eval"}


def copy_before(stage: str, whole: Path, name: str) -> Path:
    """A copy of a whole run as it was before `stage`: without what that stage and later ones left, beside the run."""
    later = list(STAGES)[list(STAGES).index(stage) :]
    gone = {"logs", "report", *(OUTPUT[name] for name in later if name in OUTPUT)}
    folder = whole.with_name(name)
    shutil.copytree(whole, folder, ignore=lambda source, names: gone & set(names) if Path(source) == whole else ())
    for name in later:
        (folder / "stages" / f"{name}.json").unlink(missing_ok=True)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def marked(mark: Path) -> dict[str, str]:
    """An environment that all descendants of a process inherit, whatever becomes of it."""
    return os.environ | {"STARTED_FOR": str(mark)}


def open_to_others(mark: Path) -> list[str]:
    """Sockets that the marked processes listen on beyond loopback: name, address and port."""
    processes = psutil.process_iter(["name", "environ"])
    ours = {p.pid: p.info["name"] for p in processes if (p.info["environ"] or {}).get("STARTED_FOR") == str(mark)}
    found = []
    for socket in psutil.net_connections("inet"):  # once: of each process apart, it takes as long as steps of training
        if socket.pid in ours and socket.status == psutil.CONN_LISTEN:
            address = ip_address(socket.laddr.ip)
            if not (getattr(address, "ipv4_mapped", None) or address).is_loopback:
                found.append(f"{ours[socket.pid]} {address}:{socket.laddr.port}")
    return found


def left_behind(mark: Path, seconds: float) -> list[str]:
    """Command lines of the marked processes that are still there after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        left = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            if (process.info["environ"] or {}).get("STARTED_FOR") == str(mark):
                left.append(" ".join(process.info["cmdline"] or []))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def orphaned_memory(pattern: str) -> set[str]:
    """Names of shared memory that no process uses any more."""
    folder = Path("/dev/shm")
    names = {path.name for path in folder.glob(pattern)}
    used = {
        Path(area.path).name
        for process in psutil.process_iter(["memory_maps"])
        for area in process.info["memory_maps"] or ()
        if area.path.startswith(f"{folder}/")
    }
    return {name for name in names - used if (folder / name).exists()}

"""Bring up the environment: a virtual environment in .venv with the locked packages. Standard library only.

    python3 requirements/install.py [cpu|gpu]

Without an argument the set is chosen by what the machine has. Does nothing when the lock is installed already.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.8"
FREE_GB = {"cpu": 10, "gpu": 20}  # installed size and what is unpacked on the way


def fail(message: str) -> None:
    sys.exit(f"error: {message}")


def main(engines: str | None) -> None:
    if not (3, 11) <= sys.version_info < (3, 13):
        fail(f"Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}; name one with make PYTHON=...")
    engines = engines or ("gpu" if Path("/dev/nvidia0").exists() else "cpu")
    if engines not in FREE_GB:
        fail(f"unknown package set {engines!r}: choose cpu or gpu")
    lock = ROOT / "requirements" / f"{engines}.txt"
    folder = ROOT / ".venv"
    stamp = folder / "installed"
    wanted = f"{engines} {hashlib.sha256(lock.read_bytes()).hexdigest()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return

    free = shutil.disk_usage(ROOT).free / 1e9
    if free < FREE_GB[engines]:
        fail(f"{ROOT} has {free:.1f} GB free; the {engines} packages need {FREE_GB[engines]} GB")
    print(f"installing the {engines} packages into {folder} (once; several GB)", flush=True)  # noqa: T201
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    stamp.unlink(missing_ok=True)
    run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
    uv = [str(folder / "bin" / "uv"), "pip"]
    run([*uv, "sync", "--quiet", "--python", str(python), "--require-hashes", str(lock)])
    stamp.write_text(wanted)


def run(command: list[str]) -> None:
    env = os.environ | {"UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "300")}
    code = subprocess.run(command, cwd=ROOT, env=env).returncode
    if code:
        fail(
            f"`{' '.join(command)}` failed with exit code {code}, see above. If a download failed, check the network "
            "and run the same command again: what is downloaded already is kept"
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

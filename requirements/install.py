"""Bring up the environment: a virtual environment in .venv with the locked packages. Standard library only.

    python3 requirements/install.py [cpu|gpu]

Without an argument the installed set stays; where there is none, the machine's GPUs decide. So a command on a login
node does not replace the packages of the GPU nodes that share the folder. Does nothing when the lock is installed.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.8"
FREE_GB = {"cpu": 10, "gpu": 20}  # installed size and what is unpacked on the way
GLIBC = (2, 28)  # of the wheels of torch and vLLM
DRIVER = 580  # of CUDA 13, which the gpu packages bring


def fail(message: str) -> None:
    sys.exit(f"error: {message}")


def main(engines: str | None) -> None:
    if not (3, 11) <= sys.version_info < (3, 13):
        fail(f"Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}; name one with make PYTHON=...")
    folder = ROOT / ".venv"
    stamp = folder / "installed"
    engines = engines or (stamp.read_text().split()[0] if stamp.exists() else "gpu" if has_gpu() else "cpu")
    if engines not in FREE_GB:
        fail(f"unknown package set {engines!r}: choose cpu or gpu")
    lock = ROOT / "requirements" / f"{engines}.txt"
    wanted = f"{engines} {hashlib.sha256(lock.read_bytes()).hexdigest()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return

    check_machine(engines)
    say(f"installing the {engines} packages into {folder} (once; several GB)")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    stamp.write_text(f"{engines} unfinished")  # what breaks off is taken up, on whatever machine
    run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
    uv = [str(folder / "bin" / "uv"), "pip"]
    # Compiled once, here: a shell that sets PYTHONDONTWRITEBYTECODE would compile all imports in every process.
    run([*uv, "sync", "--quiet", "--compile-bytecode", "--python", str(python), "--require-hashes", str(lock)])
    stamp.write_text(wanted)


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU, whichever of them a container was given; /dev/dxg is that of WSL."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def driver() -> str | None:
    """Version of the NVIDIA kernel driver, like "580.65.06"; None where there is none."""
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", path.read_text()) if path.exists() else None
    return found and found[1]


def check_machine(engines: str) -> None:
    """Say, before the download, what the packages need; end where this machine cannot hold them."""
    free, needed = shutil.disk_usage(ROOT).free / 1e9, FREE_GB[engines]
    if free < needed:
        fail(f"{ROOT} has {free:.1f} GB free; the {engines} packages need {needed} GB")
    name, version = platform.libc_ver()
    if name == "glibc" and tuple(map(int, version.split("."))) < GLIBC:
        fail(f"this machine has glibc {version}; the packages need {'.'.join(map(str, GLIBC))} or later")
    if engines == "cpu":
        return
    found = driver()
    say(
        f"the gpu packages bring CUDA 13. The machines that use them need NVIDIA's driver {DRIVER} or later, or a "
        "data-centre driver 535, 550 or 570 with the package cuda-compat-13-0; this one has "
        + (f"driver {found}" if found else "none")
    )
    if found and int(found.split(".")[0]) < DRIVER:
        say(f"warning: driver {found} is older than {DRIVER}: without cuda-compat-13-0 no GPU will be found")


def say(message: str) -> None:
    print(message, flush=True)  # noqa: T201


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

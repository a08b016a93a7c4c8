"""What an engine takes over from the user's shell: all of it, but for what breaks engines.

Ray reads RAY_ADDRESS wherever no address is given, and every Ray job has one; it counts GPUs by CUDA_VISIBLE_DEVICES,
where an empty one is how people say "CPU"; sockets may have 107 characters, and batch systems have long TMPDIRs;
libraries cache in the home folder, which may be small, missing or read-only.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe

# Of a folder with sockets: what Ray puts under it, /ray/session_<date>_<pid>/sockets/plasma_store, has 68 characters.
LONGEST_FOLDER = 107 - 68
CACHES = {  # variable of a library -> folder below the project's cache folder
    "HF_DATASETS_CACHE": "datasets",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "VLLM_CACHE_ROOT": "vllm",
    "VLLM_CONFIG_ROOT": "vllm_config",
    "FLASHINFER_WORKSPACE_BASE": "",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def short_temporary(name: str) -> Path:
    """A temporary folder with room for sockets: `name` in $TMPDIR, or in /tmp where that is too long.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> tempfile.tempdir, before = None, tempfile.tempdir
        >>> with patch.dict(os.environ, {"TMPDIR": "/var/tmp/" + "x" * 40}), patch("os.path.isdir", return_value=True):
        ...     short_temporary("camreasoner-0123456789")
        PosixPath('/tmp/camreasoner-0123456789')
        >>> tempfile.tempdir = before
    """
    folder = Path(tempfile.gettempdir()) / name
    return folder if len(os.fsencode(folder)) <= LONGEST_FOLDER else Path("/tmp") / name  # noqa: S108


def inherited(recipe: Recipe, shell: Mapping[str, str]) -> dict[str, str]:
    """The shell's variables, as an engine gets them.

    Raises:
        LaunchError: a variable that no engine could use; says what to set.
    """
    env = dict(shell)
    if recipe.cluster.address is None:
        env.pop("RAY_ADDRESS", None)
    if recipe.cluster.device == "cpu":
        env.pop("CUDA_VISIBLE_DEVICES", None)
    if "OMP_NUM_THREADS" in env:
        env["OMP_NUM_THREADS"] = str(threads_of(env["OMP_NUM_THREADS"]))
    for name in ("no_proxy", "NO_PROXY"):
        env[name] = ",".join(dict.fromkeys([*filter(None, env.get(name, "").split(",")), *LOOPBACK]))
    return _with_user(env) | caches(env)


def threads_of(value: str) -> int:
    """Threads of the outermost level; OpenMP takes a number per level.

    Raises:
        LaunchError: not a list of numbers.

    Example:
        >>> threads_of("4,2")
        4
    """
    first = value.split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise LaunchError(f"OMP_NUM_THREADS={value}: set a number of threads, or unset it")
    return int(first)


def caches(env: Mapping[str, str]) -> dict[str, str]:
    """Folders in which libraries keep what they compute, in the project's cache folder; the shell's own choice stays.

    Models from the hub stay where huggingface_hub has them (HF_HOME), since other projects use them too.

    Raises:
        LaunchError: the cache folder cannot be written.
    """
    folder = cache_folder(env)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"cache folder {folder}: {error.strerror}: set CAMREASONER_CACHE to another one") from error
    if not os.access(folder, os.W_OK):
        raise LaunchError(f"cache folder {folder} cannot be written: set CAMREASONER_CACHE to another one")
    return {name: env.get(name, str(folder / below)) for name, below in CACHES.items()}


def cache_folder(env: Mapping[str, str]) -> Path:
    """$CAMREASONER_CACHE, or .cache in the checkout."""
    return Path(env.get("CAMREASONER_CACHE", ROOT / ".cache"))


def _with_user(env: dict[str, str]) -> dict[str, str]:
    """A name for a user that the machine does not know, as in containers; getpass looks here first."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return {"USER": f"user{os.getuid()}"} | env
    return env

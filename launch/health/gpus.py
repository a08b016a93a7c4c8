"""Driver, GPUs, and the links between them."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

from launch.engines.inherited import inherited
from launch.health.finding import Finding, output_of
from launch.recipe import ROOT, Recipe

DRIVER = 580  # of CUDA 13, which the gpu packages bring
MIB = 2**20 / 1e9  # in GB
IN_USE_GB = 1.0  # of a GPU's memory, by others
ALL_REDUCE_SECONDS = 300


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi says of a GPU; memory in GB."""

    name: str
    memory: float
    used: float
    driver: str
    capability: float
    mig: bool


def seen_gpus() -> list[Gpu]:
    """The GPUs of this machine that this process may use; none without a driver."""
    keys = "index,uuid,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current"
    table = output_of(["nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader,nounits"]) or ""
    rows = [[cell.strip() for cell in row] for row in csv.reader(table.splitlines())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        wanted = [name.strip() for name in visible.split(",") if name.strip()]
        rows = [row for row in rows if any(row[0] == name or row[1].startswith(name) for name in wanted)]
    return [
        Gpu(name, float(memory) * MIB, float(used) * MIB, driver, float(capability), mig == "Enabled")
        for _, _, name, memory, used, driver, capability, mig in rows
    ]


def driver(recipe: Recipe) -> Finding:
    """NVIDIA's driver, of the version that CUDA 13 needs."""
    if recipe.cluster.device == "cpu":
        return Finding("driver", "not needed", "cluster.device=cpu")
    found = seen_gpus()
    if not found:
        return Finding(
            "driver",
            "wrong",
            "nvidia-smi shows no GPU",
            "run this on a GPU node (srun …, docker run --gpus all); on one, install NVIDIA's driver "
            f"{DRIVER} or later. On a login node `make plan` says all that can be known there",
        )
    version = found[0].driver
    if int(version.split(".")[0]) < DRIVER:
        return Finding(
            "driver",
            "doubtful",
            f"{version}, older than {DRIVER}",
            "the package cuda-compat-13-0 for a data-centre driver 535, 550 or 570, else a newer driver; the line "
            "below says whether CUDA starts",
        )
    return Finding("driver", "ok", version)


def gpus(recipe: Recipe) -> Finding:
    """As many GPUs, as large, as the recipe counts with; free, and with bfloat16."""
    cluster = recipe.cluster
    if cluster.device == "cpu":
        return Finding("GPUs", "not needed", f"{cluster.gpus_per_node} rank(s) on the CPU")
    found = seen_gpus()
    seen = ", ".join(dict.fromkeys(f"{gpu.name} {gpu.memory:.0f} GB" for gpu in found))
    seen = f"{len(found)} of {cluster.gpus_per_node}: {seen}" if found else "none"
    if len(found) < cluster.gpus_per_node:
        remedy = f"cluster.gpus_per_node={len(found)}, or a larger node" if found else "see the driver"
        hidden = "; CUDA_VISIBLE_DEVICES hides others" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        return Finding("GPUs", "wrong", seen + hidden, remedy)
    if any(gpu.capability < 8.0 for gpu in found):
        return Finding("GPUs", "wrong", f"{seen}, without bfloat16", "GPUs of compute capability 8.0 (A100) or higher")
    if any(gpu.mig for gpu in found):
        return Finding("GPUs", "doubtful", f"{seen}, in MIG mode", "whole GPUs: NCCL does not join instances")
    if busy := [gpu for gpu in found if gpu.used > IN_USE_GB]:
        most = max(gpu.used for gpu in busy)
        return Finding(
            "GPUs",
            "doubtful",
            f"{seen}; {len(busy)} in use, up to {most:.0f} GB",
            "nvidia-smi shows whose processes these are; CUDA_VISIBLE_DEVICES chooses others",
        )
    smallest = min(gpu.memory for gpu in found)
    if cluster.gpu_memory_gb is not None and smallest < 0.95 * cluster.gpu_memory_gb:
        return Finding(
            "GPUs",
            "doubtful",
            f"{seen}; the recipe counts with {cluster.gpu_memory_gb:g} GB each",
            f"cluster.gpu_memory_gb={smallest:.0f}, then make plan",
        )
    return Finding("GPUs", "ok", seen)


def links(recipe: Recipe) -> Finding:
    """NVLink between all GPUs of the node; over PCIe alone FSDP waits for its weights."""
    if recipe.cluster.device == "cpu" or recipe.cluster.gpus_per_node == 1:
        return Finding("NVLink", "not needed", "one GPU or none")
    table = re.sub(r"\x1b\[\d*m", "", output_of(["nvidia-smi", "topo", "-m"]) or "")
    rows = [line.split() for line in table.splitlines() if re.match(r"GPU\d+\s", line)]
    pairs = [row[1 + column] for row in rows for column in range(len(rows)) if row[1 + column] != "X"]
    if not pairs:
        return Finding("NVLink", "doubtful", "nvidia-smi topo -m shows no GPUs", "see the driver")
    if slow := sorted({link for link in pairs if not link.startswith("NV")}):
        count = sum(not link.startswith("NV") for link in pairs)
        return Finding(
            "NVLink",
            "doubtful",
            f"{count} of {len(pairs)} links are {', '.join(slow)}",
            "it works over PCIe, more slowly than planned: more rows at once (rl.micro_batch_size_per_gpu), lora",
        )
    return Finding("NVLink", "ok", f"between all {len(rows)} GPUs: {', '.join(sorted(set(pairs)))}")


def all_reduce(recipe: Recipe) -> Finding:
    """The sum over all ranks of the node, as every update needs it: NCCL between GPUs, gloo without."""
    backend, ranks = ("nccl", recipe.cluster.gpus_per_node) if recipe.cluster.device == "cuda" else ("gloo", 2)
    name = f"{backend.upper() if backend == 'nccl' else backend} all-reduce"
    command = [sys.executable, "-m", "launch.health.all_reduce", str(ranks), backend]
    try:
        env = inherited(recipe, os.environ)
        done = subprocess.run(command, capture_output=True, text=True, timeout=ALL_REDUCE_SECONDS, cwd=ROOT, env=env)
    except subprocess.TimeoutExpired:
        return Finding(
            name,
            "wrong",
            f"no end after {ALL_REDUCE_SECONDS} s",
            "NCCL_DEBUG=INFO shows where; NCCL_P2P_DISABLE=1 goes round GPUs that cannot reach each other",
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "Error" in line] or said or ["it said nothing"]
        return Finding(
            name,
            "wrong",
            errors[-1].strip()[:200],
            "NCCL_DEBUG=INFO says more; in a container --ipc=host; the driver's line, if CUDA does not start"
            if backend == "nccl"
            else "make env; python -c 'import torch'",
        )
    found = json.loads(done.stdout.splitlines()[-1])
    cuda = f", CUDA {found['cuda']}" if backend == "nccl" else ""
    return Finding(name, "ok", f"{ranks} ranks, {found['gb_per_s']:.1f} GB/s, torch {found['torch']}{cuda}")

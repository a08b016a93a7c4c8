"""What Slurm does with the flags of a job and of its steps, as far as a script depends on it:

python fake_slurm.py sbatch FOLDER CPUS [--nodes=N] SCRIPT [ARGUMENT...]      runs the script at once
python fake_slurm.py srun FOLDER FLAG... -w HOST COMMAND...                   records in FOLDER/steps what a step had

A job has one core and a share of a node's memory, unless it asks for all of it, and so has a step. A step has as many
tasks as its job, waits for what another step holds, and sees the job's variables only where Slurm is told so. A flag
that is not known here is refused: none stands in the script for nothing.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

JOB = ("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "exclusive", "mem", "output")
STEP = ("export", "overlap", "nodes", "ntasks", "cpus-per-task", "mem", "gpus-per-node")


def flags(given: list[str], known: tuple[str, ...]) -> dict[str, str]:
    found = {name: value for name, _, value in (flag.removeprefix("--").partition("=") for flag in given)}
    if strange := found.keys() - set(known):
        sys.exit(f"unrecognized option: {', '.join(sorted(strange))}")
    return found


def sbatch(folder: Path, cpus: str, given: list[str]) -> int:
    own = [word for word in given if word.startswith("--")]
    script, *arguments = given[len(own) :]
    asked = flags(re.findall(r"^#SBATCH (\S+)$", Path(script).read_text(), re.M) + own, JOB)
    whole = "exclusive" in asked
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": asked["nodes"],
        "SLURM_CPUS_ON_NODE": cpus if whole else "1",
        "FAKE_MEMORY": "all" if asked.get("mem") == "0" else "a share",
        "FAKE_GPUS": asked["gpus-per-node"],
        "SLURM_NTASKS": str(int(asked["nodes"]) * int(asked["ntasks-per-node"])),
    }
    (folder / "job").write_text(json.dumps(asked))
    return subprocess.run(["bash", script, *arguments], env=os.environ | job).returncode


def srun(folder: Path, given: list[str]) -> int:
    at = given.index("-w")
    asked, host, command = flags(given[:at], STEP), given[at + 1], given[at + 2 :]
    steps = folder / "steps"
    others = [json.loads(line) for line in steps.read_text().splitlines()] if steps.exists() else []
    if "overlap" not in asked and any(step["holds"] for step in others if step["host"] == host):
        sys.exit(f"step creation temporarily disabled: {host} is taken")
    step = {
        "host": host,
        "command": command[1:],
        "tasks": int(asked.get("ntasks", os.environ["SLURM_NTASKS"])),
        "cpus": int(asked.get("cpus-per-task", 1)),
        "memory": os.environ["FAKE_MEMORY"] if asked.get("mem") == "0" else "a share",
        "gpus": int(asked.get("gpus-per-node", 0)),
        "interface": os.environ.get("NCCL_SOCKET_IFNAME") if asked.get("export") == "ALL" else None,
        "token": bool(os.environ.get("RAY_AUTH_TOKEN")) and asked.get("export") == "ALL",
        "holds": "start" in command,
    }
    for name, most in (("cpus", os.environ["SLURM_CPUS_ON_NODE"]), ("gpus", os.environ["FAKE_GPUS"])):
        if step[name] > int(most):
            sys.exit(f"more {name} than the job has: {step[name]} of {most}")
    with steps.open("a") as out:
        out.write(json.dumps(step) + "\n")
    return subprocess.run(command).returncode


if __name__ == "__main__":
    kind, where, *rest = sys.argv[1:]
    sys.exit(sbatch(Path(where), rest[0], rest[1:]) if kind == "sbatch" else srun(Path(where), rest))

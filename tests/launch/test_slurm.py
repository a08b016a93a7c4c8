"""The Slurm script, run under an sbatch and an srun that enforce their flags (fake_slurm.py)."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import slurm
from launch.errors import LaunchError
from launch.recipe import ROOT

SHARED = ["runs=/shared/runs", "data.media_root=/shared/clips"]
SHARED += ["data.files={sft: /shared/s, rl: /shared/r, test: /shared/t}"]
TWO_NODES = ["experiment=camreasoner", "cluster=ray_cluster", "cluster.nodes=2", *SHARED]
# Stand-ins: a head that answers, nodes that join at once, and stages that say what they were called with.
PROGRAMS = {
    "srun": f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_slurm.py")} srun "$HERE" "$@"\n',
    "scontrol": "#!/bin/sh\nseq -f node%g $3\n",
    "ray": '#!/bin/sh\n[ "$1" = health-check ]\n',
    "python": """#!/bin/sh
case "$*" in
    *get_node_ip_address*) echo 10.0.0.7;;
    *ray.nodes) echo $SLURM_JOB_NODELIST;;
    *) echo "$RAY_ADDRESS $*" >> "$HERE/stages";;
esac
""",
}


class Sent:
    """A script that was sent: what came of it, and of each step and stage what it had."""

    def __init__(self, text: str, done: "subprocess.CompletedProcess[str]", folder: Path) -> None:
        self.text, self.code, self.told = text, done.returncode, done.stderr
        self.job: dict[str, str] = json.loads((folder / "job").read_text())
        self.steps: list[dict[str, Any]] = [json.loads(line) for line in self._lines(folder / "steps")]
        self.stages = self._lines(folder / "stages")

    @staticmethod
    def _lines(path: Path) -> list[str]:
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def send(tiny_recipe, tmp_path) -> Callable[..., Sent]:
    def send(given: list[str], *arguments: str) -> Sent:
        for name, code in PROGRAMS.items():
            (tmp_path / name).write_text(code)
            (tmp_path / name).chmod(0o755)
        for name in ("steps", "stages"):
            (tmp_path / name).unlink(missing_ok=True)
        text = slurm.render(tiny_recipe(*given), given, str(tmp_path / "python"))
        script = tmp_path / "train.sbatch"
        script.write_text(re.sub(r"^cd .*$", f"cd {tmp_path}", text, flags=re.M))
        own = [word for word in arguments if word.startswith("--")]
        stages = [word for word in arguments if not word.startswith("--")]
        command = [sys.executable, str(Path(__file__).with_name("fake_slurm.py")), "sbatch", str(tmp_path), "96"]
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HERE": str(tmp_path), "NCCL_SOCKET_IFNAME": "ib0"}
        done = subprocess.run([*command, *own, str(script), *stages], env=env, capture_output=True, text=True)
        return Sent(text, done, tmp_path)

    return send


def test_a_slurm_script_takes_whole_nodes_in_every_step(send):
    """The head and each other node run Ray with all cores, memory and GPUs of the node, and the job's variables."""
    sent = send(TWO_NODES)
    assert sent.code == 0, sent.told
    assert sent.job["nodes"] == "2" and sent.job["job-name"] == "camreasoner-main" and "%j" in sent.job["output"]
    had = {"tasks": 1, "cpus": 96, "memory": "all", "gpus": 8, "interface": "ib0", "token": True}
    assert [step for step in sent.steps if had.items() <= step.items()] == sent.steps
    started = {step["host"]: step["command"][2] for step in sent.steps if step["holds"]}
    assert started == {"node1": "--head", "node2": "--address=10.0.0.7:20007"}
    assert all(line.startswith("10.0.0.7:20007 -m launch.") for line in sent.stages)
    assert [line.split()[2] for line in sent.stages if line.endswith("cluster.address=auto")] == [
        "launch.rl",
        "launch.evaluate",
    ]


def test_a_script_is_quoted_and_holds_no_secret(tiny_recipe, tmp_path):
    given = [*TWO_NODES, 'prompt.system="a b"']
    text = slurm.render(tiny_recipe(*given), given, "/opt/env/bin/python")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert "'prompt.system=\"a b\"'" in text
    assert "RAY_AUTH_MODE=token" in text and "API_KEY=" not in text


def test_stages_of_one_node_are_sent_alone(send):
    sent = send(TWO_NODES, "--nodes=1", "data", "model", "sft")
    assert sent.code == 0, sent.told
    assert [line.split()[2] for line in sent.stages] == ["launch.data", "launch.model", "launch.sft"]
    assert {step["host"] for step in sent.steps} == {"node1"}
    assert "#   first=$(sbatch --parsable --nodes=1 ... THIS data model sft)" in sent.text
    assert "#   sbatch --dependency=afterok:$first ... THIS rl merge evaluate report" in sent.text
    refused = send(TWO_NODES, "--nodes=1", "rl")
    assert (refused.code, refused.told) == (2, "stage rl needs 2 nodes, this job has 1\n")
    refused = send(TWO_NODES, "dta")
    assert refused.code == 2 and "no stage dta: name some of data" in refused.told


def test_sft_holds_as_many_nodes_as_the_recipe_says(send):
    over_two = [*TWO_NODES, "cluster.sft_nodes=2"]
    refused = send(over_two, "--nodes=1", "sft")
    assert (refused.code, refused.told) == (2, "stage sft needs 2 nodes, this job has 1\n")
    sent = send(over_two, "sft")
    assert sent.code == 0, sent.told
    assert {step["host"] for step in sent.steps if step["holds"]} == {"node1", "node2"}
    assert [line.split()[2] for line in sent.stages if line.endswith("cluster.address=auto")] == ["launch.sft"]
    assert "needs: data 1, model 1, merge 1, report 1, the others all" in sent.text
    assert "--nodes=1 ... THIS data model)" in sent.text and "... THIS sft rl merge evaluate report" in sent.text


def test_a_part_of_the_nodes_can_be_sfts(send):
    sent = send([*TWO_NODES[:2], "cluster.nodes=4", "cluster.sft_nodes=2", *SHARED], "--nodes=2", "data", "sft")
    assert sent.code == 0, sent.told
    assert "needs: data 1, model 1, sft 2, merge 1, report 1, the others all" in sent.text
    assert "#   first=$(sbatch --parsable --nodes=2 ... THIS data model sft)" in sent.text


@pytest.mark.parametrize(
    ("lost", "what", "left"),
    [
        (' --cpus-per-task="$SLURM_CPUS_ON_NODE"', "cpus", 1),
        (" --export=ALL", "token", False),
        (" --ntasks=1", "tasks", 2),
        ("#SBATCH --mem=0\n", "memory", "a share"),
    ],
)
def test_the_fake_enforces_what_a_script_asks_for(send, monkeypatch, lost, what, left):
    """Without the flag a step lacks what it is there for."""
    render = slurm.render
    monkeypatch.setattr(slurm, "render", lambda *given: render(*given).replace(lost, ""))
    assert {step[what] for step in send(TWO_NODES).steps} == {left}


def test_steps_of_the_docs_ask_for_a_whole_node():
    """Not for one core and a share of the memory, with which the doctor would find a machine that is none."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    steps = [line for page in pages for line in re.findall(r"srun --.*", page.read_text())]
    assert steps
    for step in steps:
        assert {"--exclusive", "--mem=0", "--ntasks=1", "--gpus-per-node=8"} <= set(step.split()), step
        assert "--cpus-per-task=" in step


def test_slurm_is_for_gpus_and_shared_paths(tiny_recipe):
    with pytest.raises(LaunchError, match="GPU nodes"):
        slurm.render(tiny_recipe(), [])
    with pytest.raises(LaunchError, match="runs=runs"):
        slurm.render(tiny_recipe("cluster=ray_cluster", "runs=runs", "rl.micro_batch_size_per_gpu=1"), [])

"""Two Ray nodes on this machine, each with an address of its own: RL over both, and jobs that outlive their client."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chain import command, lines

from launch.recipe import ROOT
from launch.submit import client, submit

pytestmark = pytest.mark.e2e

TWO = ["cluster.nodes=2", "rl.steps=2", "rl.save_every=2"]


def test_rl_over_two_nodes(demo):
    """FSDP over two nodes, one vLLM server on each, two steps of the real trainer."""
    runs, two = demo.parents[1], demo.with_name("two")
    shutil.copytree(demo, two, ignore=lambda folder, names: {"rl", "merged", "eval", "report"} & set(names))
    for stage in ("rl", "merge", "evaluate"):
        (two / "stages" / f"{stage}.json").unlink(missing_ok=True)
    done = subprocess.run([*command("rl", runs, "two"), *TWO], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    metrics = lines(two / "rl" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2]
    # The policy that rolls out on either node is the one that trains over both.
    assert min(line["data"]["training/rollout_actor_probs_pearson_corr"] for line in metrics) >= 0.999
    actor = two / "rl" / "checkpoints" / "global_step_2" / "actor"
    assert {path.name for path in actor.glob("model_world_size_*")} == {
        f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)
    }
    log = (two / "logs" / "rl.log").read_text()
    assert "127.0.0.3" in log  # the second node has written there
    assert len(lines(two / "rl" / "rollouts" / "2.jsonl")) == 32


# ------------------------------------------------------------------ jobs

# Ray asks for a token unless told otherwise. It reads its own once per process, and this one may have started a node
# with another token before.
OPEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address of the dashboard of a head and a worker node: real Ray processes, as `ray start` makes them."""
    folder = Path("/tmp") / f"cam-{os.getpid()}"  # short: sockets in it may have 107 characters
    env = os.environ | {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "JUDGE_API_KEY": "abcdef0123456789"}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"} | OPEN
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-gpus=1", "--num-cpus=4"]
    ray += ["--object-store-memory=100000000", "--disable-usage-stats"]
    head = ["--head", "--node-ip-address=127.0.0.2", "--port=26379", "--dashboard-port=28265"]
    head += ["--dashboard-agent-listen-port=28267"]  # the default is taken where another node runs
    worker = ["--address=127.0.0.2:26379", "--node-ip-address=127.0.0.3", "--dashboard-agent-listen-port=28266"]
    logs = [(tmp_path_factory.mktemp("ray") / name).open("w") for name in ("head", "worker")]
    nodes = [subprocess.Popen([*ray, *head], env=env, stdout=logs[0], stderr=subprocess.STDOUT)]
    address = "http://127.0.0.1:28265"
    try:
        _until(lambda: _answers(address), 180)
        nodes.append(subprocess.Popen([*ray, *worker], env=env, stdout=logs[1], stderr=subprocess.STDOUT))
        yield address
    finally:
        import psutil

        from launch.process import end

        family = [p for node in nodes for p in [psutil.Process(node.pid), *psutil.Process(node.pid).children(True)]]
        end(family)
        for node in nodes:
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(address: str) -> bool:
    import requests

    try:
        return requests.get(f"{address}/api/version", timeout=2).ok
    except requests.RequestException:
        return False


def _until(true, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _state(address: str, job: str) -> str:
    return client(address).get_job_status(job).value


def test_a_submitted_stage_runs_without_its_client(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "abcdef0123456789")
    small = [f"data.rendered.{split}={{clips: 6, binary: 12, choice: 0, confusable: 0.25}}" for split in ("sft", "rl")]
    job = submit("data", [f"runs={tmp_path / 'runs'}", "cluster.cpus=1", *small], cluster, sys.executable)
    _until(lambda: _state(cluster, job) in ("SUCCEEDED", "FAILED"), 300)
    told = client(cluster).get_job_logs(job)
    assert _state(cluster, job) == "SUCCEEDED", told
    assert (tmp_path / "runs" / "demo" / "main" / "data" / "rl.jsonl").exists()
    description = str(client(cluster).get_job_info(job))
    assert "abcdef0123456789" not in description + told
    assert not any("abcdef0123456789" in p.read_text() for p in (tmp_path / "runs").rglob("*.json*"))


def test_a_job_can_be_stopped(cluster, tmp_path):
    job = submit("data", [f"runs={tmp_path / 'runs'}", "cluster.cpus=1"], cluster, sys.executable)
    _until(lambda: _state(cluster, job) == "RUNNING", 120)
    stop = [sys.executable, "-m", "launch.submit", "stop", job, "--address", cluster]
    done = subprocess.run(stop, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "STOPPED" in done.stdout, done.stderr


def test_a_cluster_that_is_too_small_ends_at_once(cluster):
    """`launch.nodes.join` on the real cluster: two nodes of one GPU each are no two nodes of two."""
    code = "from launch import nodes; nodes.join('127.0.0.2:26379', 2, {}, [], [{}])"
    env = os.environ | OPEN | {"PYTHONPATH": str(ROOT), "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin"}

    def join(gpus: int, name: str) -> str:
        run = [sys.executable, "-c", code.format(gpus, repr(name))]
        done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
        return done.stderr if done.returncode else ""

    assert "needs 2 node(s) with 2 GPU(s) each, the cluster has 127.0.0.2: 1, 127.0.0.3: 1" in join(2, "JUDGE_API_KEY")
    assert "has no NOT_SET_ANYWHERE" in join(1, "NOT_SET_ANYWHERE")
    assert join(1, "JUDGE_API_KEY") == ""

"""Jobs on two Ray nodes of this machine, each with an address of its own: they outlive their client."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from chain import copy_before, lines, run
from safetensors.torch import load_file

from launch.cluster.jobs import client, submit
from launch.engines.environment import WAITS
from launch.recipe import ROOT

# ------------------------------------------------------------------ jobs

# Ray asks for a token unless told otherwise. It reads its own once per process, and this one may have started a node
# with another token before.
OPEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A clip that the head's node sees, and the worker's does not where it may have mounts of its own."""
    clip = tmp_path_factory.mktemp("media") / "clip.mp4"
    clip.touch()
    return clip


@pytest.fixture(scope="module")
def apart(media) -> list[str]:
    """What a command starts with that shall not see `media`; empty where the machine does not allow it."""
    apart = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {media.parent} && exec "$@"', "sh"]
    try:
        return apart if subprocess.run([*apart, "true"], capture_output=True).returncode == 0 else []
    except FileNotFoundError:
        return []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, apart):
    """Address of the dashboard of a head and a worker node: real Ray processes, as `ray start` makes them."""
    folder = Path("/tmp") / f"cam-{os.getpid()}"  # short: sockets in it may have 107 characters
    env = os.environ | {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "JUDGE_API_KEY": "abcdef0123456789"}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"} | OPEN | WAITS
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
        nodes.append(subprocess.Popen([*apart, *ray, *worker], env=env, stdout=logs[1], stderr=subprocess.STDOUT))
        yield address
    finally:
        import psutil

        from launch.engines.cleanup import end

        family = [p for node in nodes for p in [psutil.Process(node.pid), *psutil.Process(node.pid).children(True)]]
        end(family, seconds=1)
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
    small += [f"rl.{size}" for size in ("rollout_batch_size=4", "global_batch_size=4", "micro_batch_size_per_gpu=32")]
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
    stop = [sys.executable, "-m", "launch.jobs", f"stop={job}", f"address={cluster}"]
    done = subprocess.run(stop, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "STOPPED" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def told(cluster, media) -> list[str]:
    """What `nodes.join` says on the real cluster: of GPUs, of a variable, of a path, and with nothing missing."""
    code = f"""
import sys, ray
from launch.engines.ray import nodes
key, clip = "JUDGE_API_KEY", {str(media)!r}
for gpus, name, path in ((2, key, "/"), (1, "NOT_SET_ANYWHERE", "/"), (1, key, clip), (1, key, "/")):
    try:
        nodes.join("127.0.0.2:26379", 2, gpus, [path], [name])
        sys.stdout.write("joined\\n")
    except nodes.ClusterError as error:
        sys.stdout.write(f"{{error}}\\n")
    ray.shutdown()
"""
    env = os.environ | OPEN | {"PYTHONPATH": str(ROOT), "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("(")]


def test_a_cluster_that_is_too_small_ends_at_once(told):
    """Two nodes of one GPU each are not two nodes of two."""
    assert "needs 2 node(s) with 2 GPU(s) each, the cluster has 127.0.0.2: 1, 127.0.0.3: 1" in told[0]
    assert "has no NOT_SET_ANYWHERE" in told[1] and told[3] == "joined"


def test_a_node_without_the_media_is_named(told, media, apart):
    if not apart:
        pytest.skip("this machine gives a process no mounts of its own")
    assert "node 127.0.0.3" in told[2] and f"does not see {media}" in told[2] and "127.0.0.2" not in told[2]


# ------------------------------------------------------------------ SFT


def test_sft_over_two_nodes_gives_the_weights_of_one_node_with_two_ranks(cluster, demo, monkeypatch):
    """A torchrun on each node, whose ranks meet over gloo, against one with two ranks and the same chains a step."""
    for name, value in OPEN.items():
        monkeypatch.setenv(name, value)
    short = ["sft.num_train_epochs=1", "rl.start_epoch=1"]
    two_nodes = ["cluster.nodes=2", "cluster.sft_nodes=2", "cluster.address=127.0.0.2:26379"]
    weights = {}
    for name, over in (("sft-one-node", ["cluster.gpus_per_node=2"]), ("sft-two-nodes", two_nodes)):
        folder = copy_before("sft", demo, name)
        run("sft", demo.parents[1], name, *short, *over)
        (checkpoint,) = (folder / "sft").glob("checkpoint-*")
        assert len(lines(folder / "sft" / "trainer_log.jsonl")) > 0
        weights[name] = load_file(checkpoint / "model.safetensors")
    log = (folder / "logs" / "sft.log").read_text()
    assert "ip=127.0.0.3" in log  # what the second node says
    one, two = weights.values()
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-6
    before = load_file(demo / "model" / "model.safetensors")
    assert any(not torch.equal(before[key], one[key]) for key in before.keys() & one.keys())

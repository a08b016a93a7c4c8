"""Chain synthesis on Ray with a lost worker, and through a real vLLM server."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from data_tools.rendered.dataset import RenderedSettings, build_rendered
from data_tools.synthesis.local_server import LocalEndpoint
from data_tools.synthesis.teacher import RenderedTeacher


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    many, few = {"clips": 15, "binary": 60}, {"clips": 1, "binary": 2}
    build_rendered(RenderedSettings(sft=many, rl=few, test=few), folder)
    return folder


def command(name: str, data: Path, out: Path, *changes: str) -> list[str]:
    where = [f"samples={data / 'sft.jsonl'}", f"media_root={data}", f"out={out}", "judge.name=rules", "normalise=false"]
    keys = [f"synthesis.{key}" for key in (*where, *changes)]
    return [sys.executable, "-m", "launch.synthesize", f"synthesis={name}", *keys]


def test_a_lost_ray_worker_loses_nothing(data, tmp_path):
    teacher = RenderedTeacher(data)

    def slowly(body):
        time.sleep(0.25)
        return teacher(body)

    with LocalEndpoint(slowly) as server:
        changes = ("workers=2", "per_shard=8", "endpoint.concurrency=1", f"endpoint.url={server.url}")
        process = subprocess.Popen(command("camreasoner", data, tmp_path, *changes), stderr=subprocess.PIPE)
        try:
            while sum(len(path.read_bytes().splitlines()) for path in tmp_path.rglob("verdicts.jsonl")) < 12:
                assert process.poll() is None, process.stderr.read().decode()[-2000:]
                time.sleep(0.1)
            ray_workers(process.pid)[0].kill()
            assert process.wait(timeout=240) == 0, process.stderr.read().decode()[-2000:]
        finally:
            process.kill()
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["kept"] + summary["dropped"] == 60 and not summary["failed"] and not summary["pending"]
        assert len(server.bodies) <= 60 + 2  # what the lost worker had under way


def ray_workers(driver: int) -> list[psutil.Process]:
    """The processes in which Ray runs a task now; it names them ray::TASK."""
    children = psutil.Process(driver).children(recursive=True)
    names = [" ".join(child.cmdline()) for child in children]
    return [child for child, name in zip(children, names) if re.match(r"ray::(?!IDLE)(?!.*Agent)", name)]


def test_a_real_vllm_server(demo, data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = demo / "merged"
    serve = [sys.executable, "-m", "launch.serve", "experiment=demo", f"model={model}", f"port={port}"]
    server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        request = "endpoint.request={temperature: 0.0, max_tokens: 96}"
        changes = (f"endpoint.url=http://127.0.0.1:{port}/v1", f"endpoint.model={model.name}", request)
        subprocess.run(command("videop2r", data, tmp_path, *changes, "instruction=null"), check=True)
    finally:
        server.terminate()
        server.wait(60)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["generated"] == summary["kept"] + summary["dropped"] == 60
    assert summary["usage"]["generator"]["prompt_tokens"] >= 60 * 18  # visual tokens of a clip: it was seen


def wait_for(url: str, server: subprocess.Popen, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise TimeoutError(url)

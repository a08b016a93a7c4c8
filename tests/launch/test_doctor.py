"""The doctor's checks: each on a machine that has the fault, and all of them on this one."""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

from data_tools.sample import Sample, write_samples
from data_tools.synthesis.local_server import LocalEndpoint
from launch import doctor
from launch.engines.ray import start
from launch.engines.ray.health import ray
from launch.errors import LaunchError
from launch.health import gpus, machine, network, storage
from launch.health.finding import Finding
from launch.recipe import Recipe

TOPOLOGY = """\t\x1b[4mGPU0\tGPU1\tCPU Affinity\x1b[0m
GPU0\t X \t{link}\t0-63
GPU1\t{link}\t X \t0-63
"""
NODE = 'import sys; print(\'{"address": "127.0.0.1:1", "raylet": 7}\', flush=True); sys.stdin.read()'


@pytest.fixture
def smi(tmp_path, monkeypatch) -> Callable[..., None]:
    """Put a program called nvidia-smi first in the path, which tells of these GPUs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*rows: str, link: str = "NV18") -> None:
        (folder / "gpus").write_text("".join(f"{number}, GPU-{number}a, {row}\n" for number, row in enumerate(rows)))
        (folder / "topology").write_text(TOPOLOGY.format(link=link))
        program = folder / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n[ "$1" = topo ] && exec cat {folder}/topology\nexec cat {folder}/gpus\n')
        program.chmod(0o755)

    return make


H100 = "NVIDIA H100 80GB HBM3, 81559, 4, 580.65.06, 9.0, Disabled"


@pytest.fixture
def on_gpus(tiny_recipe) -> Callable[..., Recipe]:
    return lambda *overrides: tiny_recipe(
        "cluster=node_8gpu", "cluster.gpus_per_node=2", "rl.micro_batch_size_per_gpu=1", *overrides
    )


def checked(check: Callable[[Recipe], Finding], recipe: Recipe) -> tuple[str, str]:
    found = check(recipe)
    assert found.seen and bool(found.remedy) == (found.state in ("wrong", "doubtful"))
    return found.state, f"{found.seen} → {found.remedy}"


def test_gpus_as_the_recipe_counts_with_them(smi, on_gpus):
    smi(H100, H100)
    assert checked(gpus.driver, on_gpus()) == ("ok", "580.65.06 → ")
    assert checked(gpus.gpus, on_gpus()) == ("ok", "2 of 2: NVIDIA H100 80GB HBM3 86 GB → ")
    assert checked(gpus.links, on_gpus()) == ("ok", "between all 2 GPUs: NV18 → ")


FAULTS = [
    ([H100], "wrong", "1 of 2: .* → cluster.gpus_per_node=1"),
    ([H100, H100.replace("9.0", "7.5")], "wrong", "without bfloat16"),
    ([H100, H100.replace("Disabled", "Enabled")], "doubtful", "MIG"),
    ([H100, H100.replace(" 4,", " 60000,")], "doubtful", "1 in use, up to 63 GB"),
    ([H100, H100.replace("81559", "40536")], "doubtful", "counts with 80 GB each → cluster.gpu_memory_gb=43"),
]


@pytest.mark.parametrize(("rows", "state", "told"), FAULTS, ids=[told for _, _, told in FAULTS])
def test_gpus_that_differ_are_named(smi, on_gpus, rows, state, told):
    smi(*rows)
    found = checked(gpus.gpus, on_gpus())
    assert found[0] == state and re.search(told, found[1]), found


def test_hidden_gpus_are_not_counted(smi, on_gpus, monkeypatch):
    smi(H100, H100)
    for visible, count in (("1", 1), ("GPU-0a", 1), ("0,1", 2), ("", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert len(gpus.seen_gpus()) == count
    assert "CUDA_VISIBLE_DEVICES hides others" in gpus.gpus(on_gpus()).seen


def test_an_old_driver_and_slow_links_are_doubtful(smi, on_gpus):
    smi(*[H100.replace("580.65.06", "535.183.06")] * 2, link="SYS")
    assert checked(gpus.driver, on_gpus())[0] == "doubtful"
    assert checked(gpus.links, on_gpus())[1].startswith("2 of 2 links are SYS")


def test_a_machine_without_a_driver_is_sent_to_a_gpu_node(monkeypatch, on_gpus):
    monkeypatch.setattr(gpus, "output_of", lambda *_, **__: None)
    assert checked(gpus.driver, on_gpus())[0] == checked(gpus.gpus, on_gpus())[0] == "wrong"
    assert "srun" in gpus.driver(on_gpus()).remedy
    assert checked(gpus.links, on_gpus())[0] == "doubtful"


@pytest.mark.e2e
def test_ranks_of_this_machine_add_up(tiny_recipe):
    assert checked(gpus.all_reduce, tiny_recipe())[1].startswith("2 ranks, ")


def test_an_all_reduce_that_fails_is_told_by_its_error(on_gpus, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'RuntimeError: NCCL: peer access is off\nsee above' >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    state, told = checked(gpus.all_reduce, on_gpus())
    assert state == "wrong" and told.startswith("RuntimeError: NCCL: peer access is off → NCCL_DEBUG=INFO")


def test_a_container_with_little_shared_memory(tiny_recipe, monkeypatch):
    def usage(total: float, free: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, total - free, free))

    usage(64e6, 64e6)
    assert checked(machine.shared_memory, tiny_recipe())[1].endswith("docker run --ipc=host, or --shm-size=1g")
    usage(10e9, 0.1e9)
    assert checked(machine.shared_memory, tiny_recipe())[0] == "doubtful"
    usage(10e9, 9e9)
    assert checked(machine.shared_memory, tiny_recipe())[0] == "ok"


def test_nvcc_is_needed_by_an_sft_that_offloads_alone(on_gpus, tmp_path, monkeypatch):
    assert checked(machine.nvcc, on_gpus())[0] == "not needed"
    assert checked(machine.nvcc, on_gpus("cluster.offload=true", "rl.start_epoch=0"))[0] == "not needed"
    monkeypatch.setattr(
        shutil, "which", lambda place: place if str(tmp_path) in place and Path(place).exists() else None
    )
    assert checked(machine.nvcc, on_gpus("cluster.offload=true"))[0] == "wrong"
    program = tmp_path / "bin" / "nvcc"
    program.parent.mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    for release, state in (("12.4", "wrong"), ("13.0", "ok")):
        program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
        program.chmod(0o755)
        assert checked(machine.nvcc, on_gpus("cluster.offload=true"))[0] == state


def test_the_wrong_package_set_is_named(on_gpus):
    assert checked(machine.packages, on_gpus())[1].endswith("make env ENGINES=gpu")


def test_what_the_shell_has_set_is_told(tiny_recipe, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert "RAY_ADDRESS, OMP_NUM_THREADS" in machine.environment(tiny_recipe()).seen
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert checked(machine.environment, tiny_recipe())[0] == "wrong"


def test_a_run_that_the_disk_cannot_hold(tiny_recipe, monkeypatch):
    monkeypatch.setattr(storage, "WRITTEN", 2**20)
    assert checked(storage.run_disk, tiny_recipe())[0] == "ok"
    assert checked(storage.run_disk, tiny_recipe("model=qwen2_5_vl_72b"))[0] == "wrong"
    assert checked(storage.run_disk, tiny_recipe("runs=/proc/nowhere"))[0] == "wrong"


def test_videos_that_cannot_be_read_are_counted(tiny_recipe, tmp_path):
    fields = {"task": "binary", "options": ["No", "Yes"], "answer": "A", "question": "?", "source": "mine"}
    samples = [Sample(id=str(n), video=f"{n}.mp4", split="rl", **fields) for n in range(3)]
    write_samples(tmp_path / "rl.jsonl", samples)
    for sample in samples[:2]:
        (tmp_path / sample.video).write_bytes(b"video")
    given = ["data=files", f"data.media_root={tmp_path}", "data.files.sft=null", "data.files.test=null"]
    recipe = tiny_recipe(*given, f"data.files.rl={tmp_path / 'rl.jsonl'}")
    state, told = checked(storage.media, recipe)
    assert state == "wrong" and told.startswith("1 of 4 cannot be read") and "2.mp4" in told
    (tmp_path / "2.mp4").write_bytes(b"video")
    assert checked(storage.media, recipe) == ("ok", f"4 files read below {tmp_path} → ")


@contextmanager
def server(answers: dict[str, object]) -> Iterator[str]:
    """A server on loopback that answers with JSON by path, and with 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.split("?")[0] in answers
            body = json.dumps(answers.get(self.path.split("?")[0], {})).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_the_judge_answers_and_has_the_model(tiny_recipe):
    with server({"/v1/models": {"data": [{"id": "m", "object": "model"}]}}) as url:
        given = ["judge=endpoint", f"judge.url={url}/v1"]
        assert checked(network.judge, tiny_recipe(*given, "judge.model=m"))[0] == "ok"
        assert checked(network.judge, tiny_recipe(*given, "judge.model=n"))[1].endswith("serves m → judge.model=m")
    assert checked(network.judge, tiny_recipe(*given, "judge.model=m"))[0] == "wrong"
    assert checked(network.judge, tiny_recipe(*given, "judge.model=m", "judge.api_key_env=NO_KEY"))[0] == "wrong"
    assert checked(network.judge, tiny_recipe())[0] == "not needed"


def test_a_judge_is_asked_before_engines_start_and_one_without_a_list_of_models_is_taken(tiny_recipe, monkeypatch):
    with server({"/v1/models": {"data": [{"id": "m", "object": "model"}]}}) as url:
        given = ["judge=endpoint", f"judge.url={url}/v1"]
        network.require_judge(tiny_recipe(*given, "judge.model=m"))
        with pytest.raises(LaunchError, match=rf"{url}/v1 serves m\n  judge\.model=m"):
            network.require_judge(tiny_recipe(*given, "judge.model=alias"))
        monkeypatch.setenv("A_KEY", "secret")
        network.require_judge(tiny_recipe(*given, "judge.model=alias", "judge.api_key_env=A_KEY"))
    with pytest.raises(LaunchError, match=f"{url}/v1: Connection error"):
        network.require_judge(tiny_recipe(*given, "judge.model=m"))
    with LocalEndpoint(lambda body: "") as endpoint:
        network.require_judge(tiny_recipe("judge=endpoint", f"judge.url={endpoint.url}", "judge.model=m"))
    network.require_judge(tiny_recipe())


def test_the_hub_is_asked_for_models_of_the_hub_alone(tiny_recipe, tmp_path, monkeypatch):
    from huggingface_hub import HfApi, constants

    assert checked(storage.hub, tiny_recipe())[0] == "not needed"
    assert checked(storage.hub, tiny_recipe(f"model.path={tmp_path}"))[0] == "not needed"
    recipe = tiny_recipe("model.path=someone/model")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(storage, "cached", lambda name: False)

    def api(url: str) -> Callable[[], HfApi]:
        return lambda: HfApi(endpoint=url)

    files = [{"rfilename": "model.safetensors", "size": 10**9}]
    with server({"/api/models/someone/model": {"id": "someone/model", "siblings": files}}) as url:
        monkeypatch.setattr("huggingface_hub.HfApi", api(url))
        assert "within reach, 1 GB" in checked(storage.hub, recipe)[1]
    with server({}) as url:
        monkeypatch.setattr("huggingface_hub.HfApi", api(url))
        state, told = checked(storage.hub, recipe)
        assert state == "wrong" and "hf download someone/model" in told
    monkeypatch.setattr(storage, "cached", lambda name: True)
    assert checked(storage.hub, recipe) == ("ok", "in the cache: someone/model → ")


def test_a_model_is_in_the_cache_when_all_its_weights_are(tmp_path, monkeypatch):
    import huggingface_hub

    def there(name: str, file: str) -> str | None:
        return str(tmp_path / file) if (tmp_path / file).exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", there)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    )
    (tmp_path / "1.safetensors").write_text("")
    assert not storage.cached("someone/model")
    (tmp_path / "2.safetensors").write_text("")
    assert storage.cached("someone/model")


def test_an_interface_that_is_not_there_is_named(tiny_recipe, monkeypatch):
    assert checked(network.ports, tiny_recipe())[0] == "ok"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth77")
    assert checked(network.ports, tiny_recipe())[1].startswith("GLOO_SOCKET_IFNAME names eth77")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")

    def unknown(host: str) -> str:
        raise OSError(host)

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert "/etc/hosts" in checked(network.ports, tiny_recipe())[1]


def test_ray_starts_or_says_why_not(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(start, "NODE", "some_node")
    monkeypatch.setattr("os.environ", dict(os.environ))
    (tmp_path / "some_node.py").write_text("import sys; sys.exit('no such luck')")
    assert "no such luck" in checked(ray, tiny_recipe())[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = tiny_recipe("cluster.device=cuda", f"cluster.address=127.0.0.1:{port}")
    assert f"no Ray cluster at 127.0.0.1:{port}" in checked(ray, nobody)[1]


def test_the_page_shows_what_was_seen_and_what_to_do(tiny_recipe):
    found = [Finding("disk", "wrong", "none [of it]", "buy one"), Finding("judge", "not needed", "judge=rules")]
    console = Console(width=90, record=True, file=open("/dev/null", "w"))
    console.print(doctor.page(tiny_recipe(), found))
    text = console.export_text()
    assert "wrong" in text and "none [of it]" in text and "→ buy one" in text and "demo: 1 node(s) x 1, cpu" in text


def test_all_checks_look_at_this_machine(tiny_recipe, tmp_path, monkeypatch):
    """The whole page, but for Ray's node, which a stand-in takes the place of, and the all-reduce, tested above."""
    (tmp_path / "some_node.py").write_text(NODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr(start, "NODE", "some_node")
    monkeypatch.setattr(storage, "WRITTEN", 2**20)
    monkeypatch.setattr(doctor, "CHECKS", [check for check in doctor.CHECKS if check is not gpus.all_reduce])
    found = {one.name: one for one in doctor.findings(tiny_recipe())}
    assert len(found) == len(doctor.CHECKS) and not [one for one in found.values() if one.state == "wrong"], found
    needless = {"driver", "GPUs", "NVLink", "compiler", "nvcc", "labels and videos", "hub", "judge"}
    assert {name for name, one in found.items() if one.state == "not needed"} == needless
    assert found["Ray"].seen.startswith("a node of its own starts")

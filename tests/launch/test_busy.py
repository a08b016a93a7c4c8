"""A busy machine: it is said so, and Ray starts all the same, or says why not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from launch.engines.environment import WAITS
from launch.engines.ray import start
from launch.engines.watch import run_engine
from launch.errors import LaunchError
from launch.run import load
from launch.run.load import Load

FATAL = (
    "[2026-01-31 12:00:00,511 I 17 17] (raylet) main.cc:1: started\n"
    "[2026-01-31 12:00:15,511 C 17 17] (raylet) node_manager.cc:3576:  An unexpected system state has occurred. You "
    "have likely discovered a bug in Ray. Please report this issue and we'll work with you to fix it. "
    "Check failed: set Timed out waiting for file metrics_agent_port\n*** StackTrace Information ***\nmain\n"
)
# Stands in for the process that starts the nodes: it fails as often as a file in their folder says.
NODE = f"""
import json, sys
from pathlib import Path
folder = Path(json.loads(sys.argv[1])["_temp_dir"])
tries = folder.with_name("tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
logs = folder / f"session_2{{len(tries.read_text())}}" / "logs"
logs.mkdir(parents=True)
(logs / "raylet.out").write_text({FATAL!r})
(folder / "session_latest").unlink(missing_ok=True)
(folder / "session_latest").symlink_to(logs.parent)
if len(tries.read_text()) <= int(folder.with_name("failures").read_text()):
    sys.exit("Ray's raylet has ended")
print(json.dumps({{"address": "127.0.0.1:1", "raylet": 7}}), flush=True)
"""


@pytest.fixture
def node(tmp_path, monkeypatch) -> Path:
    (tmp_path / "some_node.py").write_text(NODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(start, "NODE", "some_node")
    return tmp_path


def test_a_node_that_fails_once_is_started_again(node, capsys):
    (node / "failures").write_text("1")
    nodes = start.start_nodes({"_temp_dir": str(node / "ray")})
    assert (nodes.address, nodes.raylet, nodes.process.wait()) == ("127.0.0.1:1", 7, 0)
    assert capsys.readouterr().err.count("Ray did not start") == 1


def test_a_node_that_fails_twice_says_what_its_raylet_said(node):
    (node / "failures").write_text("9")
    with pytest.raises(RuntimeError) as error:
        start.start_nodes({"_temp_dir": str(node / "ray")})
    assert str(error.value) == (
        "Ray did not start (exit code 1): Ray's raylet has ended; raylet: Check failed: set Timed out waiting for file "
        "metrics_agent_port; 2 attempts"
    )
    assert (node / "tries").read_text() == "xx"


def test_the_logs_of_a_node_are_kept_beside_those_of_a_stage_that_fails(tiny_recipe, tmp_path, monkeypatch):
    code = """
import os, pathlib, sys
logs = pathlib.Path(os.environ["TMPDIR"]) / "ray" / "session_2026" / "logs"
logs.mkdir(parents=True)
(logs / "raylet.out").write_text("why")
sys.exit(int(pathlib.Path(__file__).with_name("code").read_text()))
"""
    (tmp_path / "some_engine.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "logs" / "rl.log"
    kept = tmp_path / "logs" / "rl.ray"

    def run(code: int) -> None:
        (tmp_path / "code").write_text(str(code))
        run_engine(tiny_recipe(), ["some_engine"], log, "the engine", 1, lambda: 0)

    with pytest.raises(LaunchError, match=str(kept)):
        run(3)
    assert (kept / "session_2026" / "raylet.out").read_text() == "why"
    run(0)
    assert not kept.exists(), "they are of an earlier run"


def test_a_process_that_starts_nodes_ends_with_a_daemon_of_theirs():
    """Ray would wait for it as long as for one that is only slow."""
    child = (
        "import os, ctypes, time; from launch.engines.ray import node\n"
        "if os.fork() == 0:\n    ctypes.CDLL(None).prctl(15, b'raylet'); os._exit(0)\n"
        "node.end_with_daemons(0.05)"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "Ray's raylet has ended\n")


def test_a_busy_machine_is_named_and_an_idle_one_is_not():
    assert Load(2, 1.5, 9.0, 24.0, 20.0).warning is None, "the load average still counts the stage before"
    assert "0.9 of 2 cores" in str(Load(2, 0.9, 1.0, 24.0, 20.0).warning)
    assert "5 of 24 GiB" in str(Load(2, 2.0, 0.0, 24.0, 5.0).warning)


def test_the_load_is_that_of_this_moment():
    now = load.measure()
    assert 0 <= now.idle <= now.cores and 0 < now.available <= now.memory


def test_limits_of_the_engines_are_settings_that_they_still_have():
    """Ray compiles its own into the raylet, but for the one that Python reads."""
    import ray

    site = Path(ray.__file__).parents[1]
    sources = [site / "ray/_private/node.py", site / "ray/core/src/ray/raylet/raylet", site / "vllm/envs.py"]
    sources.append(site / "transfer_queue/storage/managers/base.py")
    known = b"".join(path.read_bytes() for path in sources)
    assert not [name for name in WAITS if name.encode() not in known]


@pytest.fixture
def busy_loops() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.e2e
@pytest.mark.usefixtures("busy_loops")
def test_ray_starts_beside_four_busy_loops(monkeypatch):
    for name, value in (WAITS | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    with TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # pytest's may be too long for a socket
        settings = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 10**8, "_temp_dir": f"{folder}/r"}
        nodes = start.start_nodes(settings)
        try:
            assert psutil.Process(nodes.raylet).name() == "raylet"
            assert len(list(Path(folder, "r").glob("session_2*"))) == 1, "at the first attempt"
        finally:
            nodes.process.terminate()
            nodes.process.wait()

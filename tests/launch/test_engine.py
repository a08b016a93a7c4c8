"""Engines in processes of their own, played by tiny real modules: watched, explained, ended, cleaned up after."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launch.engine import run_engine, scratch_path, training_threads
from launch.errors import LaunchError
from launch.recipe import ROOT

LAUNCHER = """
import sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from launch.engine import run_engine
from launch.recipe import ROOT, read_recipe

with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
    recipe = read_recipe(compose("config"))
run_engine(recipe, ["some_engine"], Path(sys.argv[1]), "engine", 1, lambda: 0)
"""


@pytest.fixture
def launch(tiny_recipe, tmp_path, monkeypatch) -> Callable[..., Path]:
    """Run `code` as an engine's module and give its log."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "logs" / "engine.log"

    def run(code: str, *overrides: str, total: int = 1, done: Callable[[], int] = lambda: 0) -> Path:
        (tmp_path / "some_engine.py").write_text(code)
        run_engine(tiny_recipe(*overrides), ["some_engine"], log, "the engine", total, done)
        return log

    return run


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_an_engine_that_succeeds(launch, capsys):
    log = launch("import os; print('hello', os.environ['HF_HUB_OFFLINE'], os.environ['TMPDIR'])", done=lambda: 1)
    assert log.read_text() == f"hello 1 {scratch_path(log)}\n"
    assert not scratch_path(log).exists()
    assert "the engine" in capsys.readouterr().out


def test_a_failure_shows_its_reason_and_names_the_log(launch, tmp_path):
    with pytest.raises(LaunchError) as error:
        launch("import sys; print('loading'); sys.stdout.flush(); raise ValueError('no such frame')")
    assert "exit code 1" in str(error.value) and "ValueError: no such frame" in str(error.value)
    assert str(tmp_path / "logs" / "engine.log") in str(error.value)


def test_a_full_disk_is_named_as_the_cause(launch, monkeypatch):
    with pytest.raises(LaunchError, match="a disk is full"):
        launch("open('/dev/full', 'wb', 0).write(b'x')")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(LaunchError, match=r"a disk is full \(0\.0 MiB left"):
        launch("raise SystemError('could not write the header')")
    launch("pass")  # one that succeeds has had enough


def test_a_silent_engine_is_ended(launch):
    begin = time.monotonic()
    with pytest.raises(LaunchError, match="no sign of life"):
        launch("import time; time.sleep(60)", f"cluster.time_limit_minutes={1 / 60}")
    assert time.monotonic() - begin < 30


def test_progress_is_a_sign_of_life(launch):
    begin = time.monotonic()
    launch(
        "import time; time.sleep(3)",
        f"cluster.time_limit_minutes={1.5 / 60}",
        total=1000,
        done=lambda: int((time.monotonic() - begin) * 10),
    )


def test_children_that_an_engine_leaves_are_ended(launch):
    log = launch(
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)\n"
        "time.sleep(1.5)"
    )
    assert not alive(int(log.read_text()))


def test_a_killed_launcher_takes_its_engine_along_and_the_next_run_cleans_up(launch, tmp_path):
    log, pid_file = tmp_path / "logs" / "engine.log", tmp_path / "pid"
    segment = Path("/dev/shm") / f"psm_test{os.getpid()}"
    (tmp_path / "some_engine.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(segment)!r}).write_text('weights')\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(log)], env=environment, stdout=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        wait_for(lambda: pid_file.exists() and pid_file.read_text() and log.with_suffix(".shm").exists())
        engine = int(pid_file.read_text())
        assert alive(engine) and alive(launcher.pid)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        wait_for(lambda: not alive(engine))
        assert segment.exists() and scratch_path(log).exists()
        launch("pass")
        assert not segment.exists() and not scratch_path(log).exists()
    finally:
        launcher.kill()
        segment.unlink(missing_ok=True)


def test_a_segment_of_others_is_left_alone(launch):
    segment = Path("/dev/shm") / f"psm_other{os.getpid()}"
    segment.write_text("weights")
    try:
        launch("import time; time.sleep(0.6)")
        assert segment.exists()
    finally:
        segment.unlink()


@pytest.mark.parametrize("given", [None, "1"])
def test_processes_that_train_have_threads_of_their_own_number(given, launch, tiny_recipe, monkeypatch):
    """The many processes of a rollout have one thread each; what the user sets holds for all."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    code = """
        import torch
        from launch.process import train_in_threads
        before = torch.get_num_threads()
        train_in_threads()
        print(before, torch.get_num_threads())
    """
    expected = given or str(training_threads(tiny_recipe()))
    assert launch(textwrap.dedent(code)).read_text().split() == [given or "1", expected]


def test_training_threads_are_two_where_each_rank_has_two_cores(tiny_recipe, monkeypatch):
    def threads(cores: int, *overrides: str) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        return training_threads(tiny_recipe(*overrides))

    two_nodes = ("cluster.nodes=2", "cluster.gpus_per_node=2")
    assert [threads(cores) for cores in (1, 2, 64)] == [1, 2, 2]
    assert [threads(cores, *two_nodes) for cores in (2, 7, 8)] == [1, 1, 2]
    assert threads(4, *two_nodes, "cluster.address=10.0.0.1:6379") == 2, "the other node has cores of its own"

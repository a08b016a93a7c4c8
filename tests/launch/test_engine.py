"""Engines in processes of their own, here tiny modules: watched, explained, killed, cleaned up after."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launch.engines import activity, watch
from launch.engines.cleanup import SharedMemory
from launch.engines.environment import training_threads
from launch.engines.watch import run_engine, scratch_path
from launch.errors import LaunchError
from launch.recipe import ROOT

LAUNCHER = """
import sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from launch.engines.watch import run_engine
from launch.compose import read_recipe
from launch.recipe import ROOT

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


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
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


TORCHRUN = r"""import sys
sys.exit('''[rank0]: ValueError: no such frame
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
Root Cause (first observed failure):
  error_file: <N/A>''')"""


def test_a_rank_that_fails_under_torchrun_shows_its_own_reason(launch):
    """torchrun ends with an error of its own, which says nothing (torch 2.11.0)."""
    with pytest.raises(LaunchError, match="ValueError: no such frame"):
        launch(TORCHRUN)


@pytest.mark.e2e
def test_a_full_disk_is_named_as_the_cause(launch, monkeypatch):
    with pytest.raises(LaunchError, match="a disk is full"):
        launch("open('/dev/full', 'wb', 0).write(b'x')")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(LaunchError, match=r"a disk is full \(0\.0 MiB left"):
        launch("raise SystemError('could not write the header')")
    launch("pass")  # one that succeeds has had enough


def test_a_silent_engine_is_killed(launch):
    begin = time.monotonic()
    with pytest.raises(LaunchError, match=r"no output or progress for [\d.]+ minutes; killed"):
        launch("import time; time.sleep(60)", f"cluster.time_limit_minutes={1 / 60}")
    assert time.monotonic() - begin < 30


COMPUTES = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@pytest.mark.e2e
def test_an_engine_that_computes_in_silence_has_more_time(launch, monkeypatch):
    monkeypatch.setattr(activity.Activity, "seen", lambda *_: True)
    limit = f"cluster.time_limit_minutes={1 / 60}"
    launch("import time; time.sleep(2.5)", limit)
    monkeypatch.setattr(watch, "COMPUTING", 2)
    with pytest.raises(LaunchError, match=r"no output or progress for [\d.]+ minutes, though it computes; killed"):
        launch("import time; time.sleep(60)", limit)


def test_a_child_that_computes_is_life_of_its_engine(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", COMPUTES])
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        monkeypatch.setattr(activity, "BUSY_CORE", 0.01)
        idle, busy = activity.Activity(gpus=False, seconds=0.2), activity.Activity(gpus=False, seconds=0.2)
        wait_for(lambda: busy.seen([psutil.Process(sleeper.pid), psutil.Process(child.pid)]))
        time.sleep(0.3)
        assert not idle.seen([psutil.Process(sleeper.pid)])
    finally:
        for process in (child, sleeper):
            process.kill()
            process.wait()


def test_a_gpu_that_computes_is_life(monkeypatch):
    told = {"text": "3\n97\n"}
    monkeypatch.setattr(activity, "output_of", lambda command: told["text"])
    assert activity.busiest_gpu() == 97 and activity.Activity(gpus=True, seconds=0).seen([])
    told["text"] = "0\n[N/A]\n"
    assert activity.busiest_gpu() == 0 and not activity.Activity(gpus=True, seconds=0).seen([])
    monkeypatch.setattr(activity, "output_of", lambda command: None)
    assert activity.busiest_gpu() == 0


@pytest.mark.e2e
def test_an_engine_with_progress_and_no_output_is_not_killed(launch):
    begin = time.monotonic()
    launch(
        "import time; time.sleep(3)",
        f"cluster.time_limit_minutes={1.5 / 60}",
        total=1000,
        done=lambda: int((time.monotonic() - begin) * 10),
    )


@pytest.mark.e2e
def test_child_processes_that_an_engine_leaves_are_killed(launch):
    log = launch(
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)\n"
        "time.sleep(1.5)"
    )
    assert not alive(int(log.read_text()))


@pytest.mark.e2e
def test_the_engine_of_a_killed_launcher_is_killed_and_the_next_run_cleans_up(launch, tmp_path):
    log, pid_file = tmp_path / "logs" / "engine.log", tmp_path / "pid"
    segment = Path("/dev/shm") / f"psm_test{os.getpid()}"
    (tmp_path / "some_engine.py").write_text(
        "import mmap, os, pathlib, time\n"
        f"pathlib.Path({str(segment)!r}).write_text('weights')\n"
        f"mapped = mmap.mmap(os.open({str(segment)!r}, os.O_RDWR), 0)\n"
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


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_shared_memory_of_other_processes_is_kept(when, launch):
    """Also where nobody is seen to map it, as in another container that shares /dev/shm."""
    segment = Path("/dev/shm") / f"psm_other{os.getpid()}"
    if when == "before":
        segment.write_text("weights")
    later = threading.Timer(0.5, lambda: segment.write_text("weights"))
    later.start()
    try:
        launch("import time; time.sleep(1.6)")
        assert segment.exists()
    finally:
        later.join()
        segment.unlink()


def test_a_segment_that_may_not_be_removed_does_not_fail_the_stage(tmp_path, monkeypatch):
    """A name in the record may belong to another user by now."""
    segment = Path("/dev/shm") / f"psm_denied{os.getpid()}"
    segment.write_text("weights")
    record = tmp_path / "engine.shm"
    record.write_text(segment.name)

    def denied(path: Path, missing_ok: bool = False) -> None:
        if path == segment:
            raise PermissionError(path)
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", denied)
    with SharedMemory(record):
        pass
    assert not record.exists() and segment.exists()
    os.unlink(segment)


@pytest.mark.e2e
@pytest.mark.parametrize("given", [None, "1"])
def test_processes_that_train_have_a_thread_count_of_their_own(given, launch, tiny_recipe, monkeypatch):
    """Each of the many rollout processes has one thread; a number that the user sets holds for all processes."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    code = """
        import os, torch
        from launch.engines.environment import train_in_threads
        before = torch.get_num_threads()
        train_in_threads()
        print(before, torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
    """
    expected = given or str(training_threads(tiny_recipe()))
    assert launch(textwrap.dedent(code)).read_text().split() == [given or "1", expected, "passive"]


def test_training_threads_are_two_where_each_rank_has_two_cores(tiny_recipe, monkeypatch):
    def threads(cores: int, *overrides: str) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        return training_threads(tiny_recipe(*overrides))

    two_nodes = ("cluster.nodes=2", "cluster.gpus_per_node=2")
    assert [threads(cores) for cores in (1, 2, 64)] == [1, 2, 2]
    assert [threads(cores, *two_nodes) for cores in (2, 7, 8)] == [1, 1, 2]
    assert threads(4, *two_nodes, "cluster.address=10.0.0.1:6379") == 2, "the other node has cores of its own"

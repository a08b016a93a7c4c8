"""What a fault leaves behind is neither taken for done nor in the way of the next try."""

import errno
import json
import pickle
import signal
import subprocess
import sys
import time

import psutil
import pytest

from launch import predict as module
from launch.errors import explain
from launch.process import _run_engine_core
from launch.run import open_run, stage
from launch.sft import _steps_done, forget_steps_after, last_whole_checkpoint


def test_a_checkpoint_whose_last_file_was_cut_off_is_set_aside(tmp_path):
    for step, last in ((5, '{"video_processor": {}}'), (10, '{"video_proc'), (15, "")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "processor_config.json").write_text(last)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert (tmp_path / "incomplete-checkpoint-10").exists() and (tmp_path / "incomplete-checkpoint-15").exists()


def test_steps_that_are_done_again_are_logged_once(tmp_path):
    log = tmp_path / "trainer_log.jsonl"
    forget_steps_after(3, log)
    assert _steps_done(log) == 0
    log.write_text("".join(json.dumps({"current_steps": step}) + "\n" for step in (2, 4, 6)) + '{"current_st')
    assert _steps_done(log) == 6
    forget_steps_after(4, log)
    assert [json.loads(line)["current_steps"] for line in log.read_text().splitlines()] == [2, 4]


def test_predictions_on_a_full_disk_end_in_its_error():
    """/dev/full takes no byte; the engine is not blamed."""

    class Engine:
        def stream(self, questions, window):
            yield None, {"id": "a", "response": "fine"}

        def close(self):
            pass

    from data_tools.sample import Sample

    asked = Sample(
        id="a", video="a.mp4", question="?", options=["a", "b"], answer="A", task="choice", source="s", split="test"
    )
    with pytest.raises(OSError) as error:
        module.predict(Engine, 1, [(None, asked)], 1, {None: module.Path("/dev/full")})
    assert error.value.errno == errno.ENOSPC


def test_a_full_disk_is_explained(capsys):
    explain(OSError(errno.ENOSPC, "No space left on device", "runs/demo"))
    assert "free some space" in (said := capsys.readouterr().err) and "runs/demo" in said
    explain(FileNotFoundError(errno.ENOENT, "No such file", "x"))
    assert "free some space" not in capsys.readouterr().err


def test_a_stage_that_fails_to_record_itself_is_not_done(tiny_recipe, monkeypatch):
    run = open_run(tiny_recipe())
    with pytest.raises(OSError), stage(run, "data"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert run.record("data") is None and (run.folder / "stages" / "data.started.json").exists()


def test_an_engine_core_ends_with_its_server():
    """vLLM starts it by `multiprocessing`, which pickles its target when it spawns."""
    code = """
import os, sys, time, types
from launch.process import bind_engine_core
core = types.ModuleType("vllm.v1.engine.core")
core.EngineCoreProc = type("EngineCoreProc", (), {"run_engine_core": staticmethod(lambda: time.sleep(60))})
sys.modules |= {"vllm": types.ModuleType("vllm"), "vllm.v1": types.ModuleType("vllm.v1"),
                "vllm.v1.engine": types.ModuleType("vllm.v1.engine"), "vllm.v1.engine.core": core}
bind_engine_core(core)
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=core.EngineCoreProc.run_engine_core)
process.start()
print(process.pid, flush=True)
process.join()
"""
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(server.stdout.readline()))
    time.sleep(0.5)
    assert child.is_running()
    server.send_signal(signal.SIGKILL)
    server.wait()
    child.wait(timeout=10)
    assert pickle.loads(pickle.dumps(_run_engine_core)) is _run_engine_core

"""What a fault leaves behind is neither taken for a result nor in the way of the next run."""

import errno
import pickle
import signal
import subprocess
import sys
import time

import psutil
import pytest

from data_tools.cli import explain
from launch.engines.patches.vllm import _run_engine_core
from launch.engines.vllm import main as module
from launch.run import run_of, stage


def test_predictions_on_a_full_disk_end_in_its_error():
    """/dev/full takes no byte; the engine is not blamed."""

    class Engine:
        def stream(self, questions, window):
            yield module.Path("/dev/full"), {"id": "a", "response": "fine"}

        def close(self):
            pass

    from data_tools.prompt import Form
    from data_tools.sample import Sample
    from launch.engines.vllm.job import Questions
    from launch.recipe.evaluation import Media

    asked = Sample(
        id="a", video="a.mp4", question="?", options=["a", "b"], answer="A", task="choice", source="s", split="test"
    )
    media = Media(fps=2, max_frames=4, min_frames=4, max_pixels=7056, min_pixels=784)
    full = module.Path("/dev/full")
    part = Questions(samples=full, root=full, media=media, form=Form(), out=full)
    with pytest.raises(OSError) as error:
        module.predict(Engine, 1, [(part, asked)], 1)
    assert error.value.errno == errno.ENOSPC


def test_a_full_disk_is_explained(capsys):
    explain(OSError(errno.ENOSPC, "No space left on device", "runs/demo"))
    assert "free some space" in (said := capsys.readouterr().err) and "runs/demo" in said
    explain(FileNotFoundError(errno.ENOENT, "No such file", "x"))
    assert "free some space" not in capsys.readouterr().err


def test_a_stage_that_fails_to_record_itself_is_not_done(tiny_recipe, monkeypatch):
    run = run_of(tiny_recipe())
    with pytest.raises(OSError), stage(run, "data"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert run.record("data") is None and (run.folder / "stages" / "data.started.json").exists()


def test_an_engine_core_ends_with_its_server():
    """vLLM starts it by `multiprocessing`, which pickles its target when it spawns."""
    code = """
import os, sys, time, types
from launch.engines.patches.vllm import end_engine_core_with_server
core = types.ModuleType("vllm.v1.engine.core")
core.EngineCoreProc = type("EngineCoreProc", (), {"run_engine_core": staticmethod(lambda: time.sleep(60))})
sys.modules |= {"vllm": types.ModuleType("vllm"), "vllm.v1": types.ModuleType("vllm.v1"),
                "vllm.v1.engine": types.ModuleType("vllm.v1.engine"), "vllm.v1.engine.core": core}
end_engine_core_with_server(core)
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

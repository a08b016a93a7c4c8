"""kill -9 of the whole process group in a stage, then the same command: it goes on, to the same numbers.

Each stage starts from the unbroken run's input and is compared with its output. Equal are the bytes of clips, samples
and weights, every response and every score; probabilities agree to 1e-4, since a resumed engine adds up other batches.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chain import command, copy_before, left_behind, lines, marked, run


@pytest.fixture
def kill(demo) -> Callable[..., Path]:
    def kill(stage: str, when: Callable[[Path], bool], *overrides: str) -> Path:
        """A copy of the run up to `stage`, which was killed as soon as `when(its folder)`."""
        folder = copy_before(stage, demo, f"killed-{stage}")
        process = subprocess.Popen(
            command(stage, demo.parents[1], folder.name, *overrides),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=marked(folder),
        )
        deadline = time.monotonic() + 300
        while not when(folder):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "stages" / f"{stage}.json").exists()
        assert left_behind(folder, seconds=30) == []
        return folder

    return kill


def go_on(stage: str, folder: Path, *overrides: str) -> str:
    return run(stage, folder.parents[1], folder.name, *overrides)


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    assert found
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_data(demo, kill):
    folder = kill("data", lambda folder: len(list(folder.glob("data/clips/*.mp4"))) > 10)
    assert not (folder / "data" / "test.jsonl").exists()
    go_on("data", folder)
    made = "clips/*.mp4", "clips/*.json", "*.jsonl", "llamafactory/*.json", "contact_sheet.png"
    assert files(folder / "data", *made) == files(demo / "data", *made)


def test_model(demo, kill):
    marks = Path("logs", "warm_up.steps")
    folder = kill("model", lambda folder: (folder / marks).exists() and (folder / marks).read_text() not in ("", "0"))
    go_on("model", folder)
    assert files(folder / "model", "*") == files(demo / "model", "*")


def test_sft(demo, kill):
    first = min(demo.glob("sft/checkpoint-*"), key=_step).name
    last = Path("sft", first, "processor_config.json")  # written in one go
    folder = kill("sft", lambda folder: (folder / last).exists() and (folder / last).stat().st_size > 0)
    assert "resuming from" in go_on("sft", folder)
    weights = "checkpoint-*/model.safetensors"
    assert files(folder / "sft", weights) == files(demo / "sft", weights)
    log, expected = (lines(path / "sft" / "trainer_log.jsonl") for path in (folder, demo))
    assert [(line["current_steps"], line.get("lr")) for line in log] == [
        (line["current_steps"], line.get("lr")) for line in expected
    ]


def test_evaluate(demo, kill):
    """Goes on with two engines in Ray actors (on logical GPUs) where one was killed."""
    models = ("eval.models=[sft]", "eval.twins=[]")  # one file of records
    folder = kill(
        "evaluate",
        lambda folder: any(b"\n" in path.read_bytes() for path in folder.glob("eval/test/sft/*.jsonl")),
        *models,
    )
    (log,) = folder.glob("eval/test/sft/*.jsonl")
    begun = log.read_bytes()[:-3]  # and half a line
    log.write_bytes(begun)
    go_on("evaluate", folder, *models, "cluster.gpus_per_node=2")
    assert log.read_bytes().startswith(begun[: begun.rfind(b"\n") + 1])
    found, expected = (lines(path / "eval" / "test" / "sft" / "predictions.jsonl") for path in (folder, demo))
    for record, unbroken in zip(found, expected, strict=True):
        assert record.pop("option_probs", {}) == pytest.approx(unbroken.pop("option_probs", {}), abs=1e-4)
        assert record.pop("p_yes", None) == pytest.approx(unbroken.pop("p_yes", None), abs=1e-4)
        assert record == unbroken


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])

"""kill -9 of the whole process group in a stage, then the same command: it goes on, to the same numbers.

Each stage starts from the unbroken run's input and is compared with its output. Equal are the bytes of clips, samples
and weights, every response and every score; probabilities agree to 1e-4, since a resumed engine adds up other batches.
"""

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chain import STAGES, command, left_behind, lines, marked, run

pytestmark = pytest.mark.e2e

OUTPUT = {"data": "data", "model": "model", "sft": "sft", "rl": "rl", "merge": "merged", "evaluate": "eval"}


@pytest.fixture
def kill(demo) -> Callable[..., Path]:
    def kill(stage: str, when: Callable[[Path], bool]) -> Path:
        """A copy of the run up to `stage`, which was killed as soon as `when(its folder)`."""
        later = STAGES[STAGES.index(stage) :]
        folder = demo.with_name(f"killed-{stage}")
        gone = {"logs", "report", *(OUTPUT[name] for name in later if name in OUTPUT)}
        shutil.copytree(demo, folder, ignore=lambda source, names: gone & set(names) if Path(source) == demo else ())
        for name in later:
            (folder / "stages" / f"{name}.json").unlink(missing_ok=True)
        process = subprocess.Popen(
            command(stage, demo.parents[1], folder.name),
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
    folder = kill("sft", lambda folder: (folder / "sft" / first / "trainer_state.json").exists())
    assert "going on from" in go_on("sft", folder)
    weights = "checkpoint-*/model.safetensors"
    assert files(folder / "sft", weights) == files(demo / "sft", weights)
    log, expected = (lines(path / "sft" / "trainer_log.jsonl") for path in (folder, demo))
    assert [(line["current_steps"], line.get("lr")) for line in log] == [
        (line["current_steps"], line.get("lr")) for line in expected
    ]


def test_evaluate(demo, kill):
    """Goes on with two engines in Ray actors (on logical GPUs) where one was killed."""
    folder = kill(
        "evaluate", lambda folder: any(b"\n" in path.read_bytes() for path in folder.glob("eval/base/*.jsonl"))
    )
    (log,) = folder.glob("eval/base/*.jsonl")
    begun = log.read_bytes()[:-3]  # and half a line
    log.write_bytes(begun)
    go_on("evaluate", folder, "cluster.gpus_per_node=2")
    assert log.read_bytes().startswith(begun[: begun.rfind(b"\n") + 1])
    for model in ("base", "sft", "rl"):
        found, expected = (lines(path / "eval" / model / "predictions.jsonl") for path in (folder, demo))
        for record, unbroken in zip(found, expected, strict=True):
            assert record.pop("option_probs", {}) == pytest.approx(unbroken.pop("option_probs", {}), abs=1e-4)
            assert record.pop("p_yes", None) == pytest.approx(unbroken.pop("p_yes", None), abs=1e-4)
            assert record == unbroken


def test_probabilities_are_those_of_the_transformers_model(demo):
    """P(option) right behind `<answer>`, by teacher forcing in transformers; the small model rarely gets there."""
    import torch
    import yaml
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    from data_tools.prompt import messages
    from data_tools.sample import read_samples
    from launch.answers import candidates, frames_of, with_clip
    from launch.verl_plugin import patches

    patches.apply()
    folder = demo.with_name("direct")
    gone = {"logs", "report", "eval"}
    shutil.copytree(demo, folder, ignore=lambda source, names: gone & set(names) if Path(source) == demo else ())
    (folder / "stages" / "evaluate.json").unlink()
    go_on("evaluate", folder, "eval.models=[sft]", "eval.limit=3", "eval.option_scores=direct")
    media = yaml.safe_load((demo / "recipe.yaml").read_text())["media"]
    asked = {sample.id: sample for sample in read_samples(demo / "data" / "test.jsonl")}
    answered = lines(folder / "eval" / "sft" / "predictions.jsonl")
    assert len(answered) == 3
    processor = AutoProcessor.from_pretrained(demo / "model")
    encode = processor.tokenizer.encode
    first = min(demo.glob("sft/checkpoint-*"), key=_step)
    model = AutoModelForImageTextToText.from_pretrained(first, dtype=torch.float32)

    def log_probs(prompt, ids: list[int]) -> list[float]:
        """Of the tokens `ids` behind the prompt."""
        inputs = dict(prompt)
        inputs["input_ids"] = torch.cat([prompt["input_ids"], torch.tensor([ids])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(prompt["mm_token_type_ids"], (0, len(ids)))
        with torch.no_grad():
            rows = model(**inputs).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        return [row[token].item() for row, token in zip(rows, ids)]

    for line in answered:
        sample = asked[line["id"]]
        turns = with_clip(messages(sample), str(demo / "data" / sample.video), media)
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = build_multimodal_processor_inputs(processor, text=[text], videos=frames_of(turns))
        paths = candidates(sample.options, "<answer>", encode)
        shared = len(os.path.commonprefix([path for _, path in paths]))
        mass = {}  # of each path's shortest beginning that no other option has, once
        for option, path in paths:
            others = [other for owner, other in paths if owner != option]
            length = next(n for n in range(len(path) + 1) if all(other[:n] != path[:n] for other in others))
            told = log_probs(prompt, list(path))
            mass[option, path[:length]] = math.exp(sum(told[shared:length]))
        expected = [
            sum(p for (owner, _), p in mass.items() if owner == option) for option in range(len(sample.options))
        ]
        found = [line["option_probs"][option] for option in sample.options]
        assert found == pytest.approx([p / sum(expected) for p in expected], abs=1e-4)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])

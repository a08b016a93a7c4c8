"""A small synthetic run folder, with everything that the stages of a run leave behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_rollouts import questions
from PIL import Image

from data_tools.rendered.scene import write_clip
from data_tools.sample import Sample, write_samples
from evaluation.benchmarks.samples import SAMPLES
from evaluation.predictions import read_predictions
from evaluation.run_scores import score_set, write_scores
from rewards.motions import NAMES, PRIMITIVES, confusable, observation

SKILL = {"base": (0.2, 0.3), "sft": (0.95, 0.6), "rl": (1.0, 0.75)}  # chance of format, chance of seeing the motion


def respond(sample: Sample, formatted: float, seeing: float, rng: np.random.Generator) -> dict:
    """A prediction record of a model that keeps the format and sees the motion with these chances."""
    true = sample.extras["motion"]
    if rng.random() > formatted:
        return {"id": sample.id, "response": "The camera <b>moves</b> " * 6, "finish_reason": "length"}
    seen = true if rng.random() < seeing else rng.choice([confusable(true), *PRIMITIVES])
    if sample.task == "binary":
        answer = "AB"[bool(sample.extras["asked"] == seen)]
    else:
        answer = "ABC"[sample.options.index(NAMES[seen])] if NAMES[seen] in sample.options else "D"
    response = (
        f"<observation>{observation(seen)}</observation><think>Seen {NAMES[seen]}.</think><answer>{answer}</answer>"
    )
    return {"id": sample.id, "response": response, "finish_reason": "stop"}


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_eval(run: Path, key: str, records: list[dict], samples: list[Sample]) -> None:
    path = run / "eval/test" / key / "predictions.jsonl"
    write_lines(path, records)
    predictions = read_predictions(path, {s.id for s in samples})
    write_scores(path.with_name("scores.json"), score_set(SAMPLES, samples, predictions))
    write_samples(run / "eval/test/samples.jsonl", samples)
    facts = run / "eval/test/set.json"
    models = json.loads(facts.read_text())["models"] if facts.exists() else {}
    models |= {key: {"is": key, "weights": key}}
    told = {
        "models": models,
        "benchmark": "samples",
        "judge": None,
        "reward": {},
        "without_video": 0,
        "trained_on": 0,
        "root": "data",
    }
    facts.write_text(json.dumps(told))


def make_run(run: Path, clips: int, models: tuple[str, ...] = ("base", "sft", "rl"), steps: int = 12) -> Path:
    rng = np.random.default_rng(0)
    (run / "data/clips").mkdir(parents=True)
    for split in ("sft", "rl", "test"):
        write_samples(run / f"data/{split}.jsonl", questions(split, clips))
    noise = rng.integers(0, 255, (28, 56, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    for number in range(clips):
        frames = np.stack([np.roll(noise, 3 * t + number, axis=1) for t in range(4)])
        write_clip(run / f"data/clips/test-{number:03d}.mp4", frames, 2.0)
    Image.fromarray(noise).save(run / "data/contact_sheet.png")
    (run / "recipe.yaml").write_text("experiment: synthetic\nseed: 0\ndata: {rendered: {}}\n")
    (run / "manifest.json").write_text(json.dumps({"seed": 0, "revision": "abc", "versions": {"verl": "0.9.1"}}))

    samples = questions("test", clips)
    for key in models:
        write_eval(run, key, [respond(sample, *SKILL[key], rng) for sample in samples], samples)

    log = [
        {"step": s, "epoch": s / 10, "loss": 3 / s, "grad_norm": 1 + 1 / s, "learning_rate": 1e-4 * (1 - s / 40)}
        for s in range(1, 31)
    ]
    (run / "sft").mkdir()
    (run / "sft/trainer_state.json").write_text(
        json.dumps({"log_history": [*log, {"step": 30, "train_runtime": 12.5, "train_loss": 0.4}]})
    )
    metrics = [{"step": 0, "data": {"val-core/accuracy": 0.5}}]
    for step in range(1, steps + 1):
        data = {
            "reward/accuracy": 0.6 + 0.2 * step / steps + rng.normal(0, 0.04),
            "reward/accuracy/binary": 0.65 + 0.2 * step / steps + rng.normal(0, 0.04),
            "reward/accuracy/choice": 0.5 + 0.2 * step / steps + rng.normal(0, 0.04),
            "reward/format": 0.97,
            "reward/overall": 0.65 + 0.2 * step / steps,
            "ema/std/binary": 0.4 - 0.1 * step / steps,
            "ema/std/choice": 0.45,
            "training/rollout_actor_probs_pearson_corr": 0.999 - 0.001 * step / steps,
            "response_length/mean": 40 + rng.normal(),
            "actor/entropy": 0.3 - 0.1 * step / steps,
        }
        metrics.append({"step": step, "data": data})
    write_lines(run / "rl/metrics.jsonl", metrics)
    (run / "stages").mkdir()
    for minute, stage in enumerate(("data", "model", "sft", "rl", "merge", "evaluate")):
        times = {"started": f"2026-01-01T10:{minute:02d}:00Z", "finished": f"2026-01-01T10:{minute:02d}:50Z"}
        record = {"stage": stage, **times, "wall_seconds": 50.0 + minute, "peak_rss_gib": 1.5 + minute}
        (run / "stages" / f"{stage}.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tests may read and copy, and leave as it is."""
    return make_run(tmp_path_factory.mktemp("made") / "demo" / "first", clips=4)


@pytest.fixture
def run(made_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_run, tmp_path / "demo" / "first", symlinks=True)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / "demo" / name, clips=4) for name in ("first", "second")]


@pytest.fixture
def base_run(tmp_path: Path) -> Path:
    """Only the base model is evaluated, nothing was trained."""
    run = make_run(tmp_path / "base" / "only", clips=2, models=("base",))
    for name in ("sft/trainer_state.json", "rl/metrics.jsonl"):
        (run / name).unlink()
    return run


@pytest.fixture
def evaluate() -> Callable[[Path, str, list[dict], list[Sample]], None]:
    """Writes predictions and their scores as the evaluation of one model does."""
    return write_eval

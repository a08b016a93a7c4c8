"""The report of a run on files: several sets of different benchmarks, any models, no training of its own."""

import json
import re
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from benchmark_labels import write_jsonl

from data_tools.rendered.scene import write_clip
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, write_samples
from evaluation.benchmarks import benchmark_named
from evaluation.grading import run_schema
from evaluation.predictions import read_predictions
from evaluation.report import clips as report_clips
from evaluation.report.page import write_report
from evaluation.run_scores import score_set, write_scores
from evaluation.runs import RunError

MODELS = {"ours": {"is": "rl", "weights": "merged"}, "released": {"is": "owner/Model", "weights": "owner/Model"}}
REWARD = {"name": "camreasoner"}


def ask(id: str, video: str, task: str, **fields) -> Sample:
    fields = {"question": f"About {video}, {task}?", "source": "mine", "split": "test"} | fields
    return Sample(id=id, video=video, task=task, **fields)


def ota(answer: str) -> str:
    return f"<observation>A door opens.</observation><think>So.</think><answer>{answer}</answer>"


def add_set(run: Path, name: str, benchmark: str, samples: list[Sample], said: dict[str, list[str]], without: int = 0):
    """A set as stages `sets` and `evaluate` leave it; `said`: model -> an answer to each sample."""
    for number, video in enumerate(sorted({sample.video for sample in samples})):
        noise = np.random.default_rng(number).integers(0, 255, (28, 42, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        path = run / "sets" / name / video
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, np.stack([np.roll(noise, 3 * t, axis=1) for t in range(4)]), 0.4)
    folder = run / "eval" / name
    write_samples_at(folder / "samples.jsonl", samples)
    facts = {"models": {key: MODELS[key] for key in said}, "benchmark": benchmark, "judge": None, "reward": REWARD}
    facts |= {"without_video": without, "trained_on": 2 * without, "root": f"sets/{name}"}
    (folder / "set.json").write_text(json.dumps(facts))
    for key, answers in said.items():
        records = [{"id": s.id, "response": ota(a), "finish_reason": "stop"} for s, a in zip(samples, answers)]
        write_jsonl(folder / key / "predictions.jsonl", records)
        predictions = read_predictions(folder / key / "predictions.jsonl", {s.id for s in samples})
        scores = score_set(benchmark_named(benchmark), samples, predictions, schema=run_schema(REWARD))
        write_scores(folder / key / "scores.json", scores)


def write_samples_at(path: Path, samples: list[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_samples(path, samples)


@pytest.fixture
def files_run(tmp_path: Path) -> Path:
    """A released checkpoint beside ours, on two sets; nothing was trained or prepared here."""
    run = tmp_path / "mine" / "vqa"
    moments = [
        ask(
            f"m{n}",
            f"clips/m{n // 2}.mp4",
            "temporal_grounding",
            spans=[[1.0, 5.0]],
            source="charades_sta",
            duration=8.0,
        )
        for n in range(6)
    ]
    add_set(run, "moments", "charades_sta", moments, {"ours": ["1 to 5"] * 6, "released": ["0 to 8"] * 6}, without=3)
    mixed = [
        ask("n0", "clips/a.mp4", "numerical", answer="4"),
        ask("n1", "clips/b.mp4", "regression", answer="10"),
        ask("n2", "clips/c.mp4", "tracking", boxes=[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]]),
        ask("n3", "clips/d.mp4", "open_ended", answer="a red door"),
        ask("n4", "clips/d.mp4", "choice", options=["pan", "tilt"], answer="A"),
    ]
    add_set(run, "mixed", "samples", mixed, {"released": ["4", "9", "[[0,0,10,10],[0,0,20,20]]", "a red door", "B"]})
    (run / "recipe.yaml").write_text(
        "experiment: mine\nseed: 0\neval: {sets: {moments: {}, mixed: {}}}\n"
        "data: {rendered: null, files: {sft: null, rl: null, test: null}}\n"
    )
    (run / "manifest.json").write_text(json.dumps({"seed": 0}))
    (run / "stages").mkdir()
    for stage in ("sets", "evaluate"):
        record = {"stage": stage, "started": f"2026-01-01T10:00:00Z {stage}", "wall_seconds": 5.0, "peak_rss_gib": 1.0}
        (run / "stages" / f"{stage}.json").write_text(json.dumps(record))
    return run


def report(run: Path) -> tuple[str, dict]:
    write_report(RunFolder(run))
    return (run / "report/index.html").read_text(), json.loads((run / "report/summary.json").read_text())


def test_every_set_is_reported_with_its_official_numbers(files_run: Path):
    (files_run / "rl").mkdir()
    (files_run / "rl/metrics.jsonl").write_text('{"step": 1, "data": {"reward/accuracy": 0.5}}\n')
    page, summary = report(files_run)
    assert summary["sets"]["moments"]["ours"]["official_mIoU"] == 1.0
    assert summary["sets"]["moments"]["released"]["official_mIoU"] == 0.5
    assert summary["sets"]["moments"]["ours"]["without_video"] == 3
    assert summary["sets"]["moments"]["ours"]["trained_on"] == 6
    mixed = summary["sets"]["mixed"]["released"]
    assert set(summary["sets"]["mixed"]) == {"released"}
    assert mixed["balanced_accuracy"] is None and mixed["n"] == 5
    assert mixed["official_accuracy"] == mixed["accuracy"] > 0.7
    assert summary["models"]["ours"]["n"] == 6  # of the first set
    assert "SFT + RL" not in page and "released" in page
    assert "released, compared with ours, is worse: mIoU 1.000 → 0.500" in page
    assert "3 more questions were not asked" in page
    written = {path.name for path in (files_run / "report/tables").glob("*.csv")}
    assert {"results.csv", "moments_charades_sta.csv", "moments_charades_sta_differences.csv"} <= written
    assert {"moments_compare.csv", "mixed_compare.csv"} <= written
    official = (files_run / "report/tables/moments_charades_sta.csv").read_text()
    assert "whole clip · over questions,baseline,mIoU,0.5" in official


def test_a_run_without_data_or_training_is_reported(files_run: Path):
    for name in ("moments", "mixed"):
        facts = files_run / f"eval/{name}/set.json"
        told = json.loads(facts.read_text())
        told["models"] = {"released": MODELS["released"]}
        facts.write_text(json.dumps(told))
    page, summary = report(files_run)
    assert "No training was logged" in page and "no data of its own" in page and "Contact sheet" not in page
    assert set(summary["models"]) == {"released"} and "rl" not in summary


@pytest.mark.parametrize(("path", "tiny"), [("null", True), ("/models/qwen", False)])
def test_only_a_model_that_was_built_for_the_run_is_called_tiny(files_run: Path, path: str, tiny: bool):
    (files_run / "rl").mkdir()
    (files_run / "rl/metrics.jsonl").write_text('{"step": 1, "data": {}}\n')
    with (files_run / "recipe.yaml").open("a") as recipe:
        recipe.write(f"\nmodel: {{path: {path}, warm_up: {{steps: 60}}}}\n")
    page, _ = report(files_run)
    assert ("The model is a tiny one" in page) == tiny


def test_a_missing_clip_names_the_stage_that_makes_it(files_run: Path):
    (files_run / "rl").mkdir()
    (files_run / "rl/metrics.jsonl").write_text('{"step": 1, "data": {}}\n')
    (files_run / "sets/mixed/clips/a.mp4").unlink()
    with pytest.raises(RunError, match=r"sets/mixed/clips/a.mp4 is missing: run the stage 'sets' first"):
        write_report(RunFolder(files_run))


def test_a_set_that_needs_a_judge_says_so(files_run: Path):
    samples = [ask("c0", "clips/a.mp4", "caption", events=["a door opens"], source="dream1k", extras={"type": "x"})]
    add_set(files_run, "captions", "dream1k", samples, {"released": ["A door opens."]})
    for name in ("moments", "mixed"):
        facts = files_run / f"eval/{name}/set.json"
        told = json.loads(facts.read_text()) | {"models": {"released": MODELS["released"]}}
        facts.write_text(json.dumps(told))
    page, summary = report(files_run)
    assert "There is no official score: dream1k needs a judge" in page
    assert not [key for key in summary["sets"]["captions"]["released"] if key.startswith("official_")]


def test_previews_are_small_and_of_the_kind_that_browsers_play(base_run: Path, monkeypatch):
    page, _ = report(base_run)
    links = set(re.findall(r'"(clips/[0-9a-f]+\.mp4)"', page))
    assert len(links) == 2
    for link in links:
        content = (base_run / "report" / link).read_bytes()
        with av.open(BytesIO(content)) as file:
            codec = file.streams.video[0].codec_context
            assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
            assert file.streams.video[0].frames == 4 and file.streams.video[0].average_rate == 2
    monkeypatch.setattr(report_clips, "PREVIEW_BYTES", len(content) + 1)
    page, _ = report(base_run)
    assert len(list((base_run / "report/clips").iterdir())) == 1  # what an earlier report left is gone
    assert "1 more are shown as frames only" in page


def test_odd_sizes_and_rates_make_previews_too():
    frames = [np.full((35, 701, 3), value, np.uint8) for value in range(0, 140, 2)]
    with av.open(BytesIO(report_clips.preview(frames, 12.5))) as file:
        stream = file.streams.video[0]
        assert max(stream.width, stream.height) <= report_clips.PREVIEW_SIDE and stream.height % 2 == 0
        assert stream.frames <= report_clips.PREVIEW_FRAMES
        assert float(stream.duration * stream.time_base) == pytest.approx(70 / 12.5)

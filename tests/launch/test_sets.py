"""Evaluation sets: files of their own, in a media budget of their own, apart from the training data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_tools.prepare import PrepareError
from data_tools.rendered.scene import write_clip
from data_tools.sample import Sample, read_samples, write_samples
from data_tools.sets import trained_on
from evaluation.predictions import Prediction
from launch import data as data_stage
from launch import evaluate, sets
from launch.compose import compose_complete
from launch.errors import LaunchError
from launch.recipe import RecipeError
from launch.run import run_of
from rewards.errors import UserError


def question(id: str, video: str, **changes) -> Sample:
    fields = {"question": "Does the camera pan?", "options": ["No", "Yes"], "answer": "A", "task": "binary"}
    return Sample(id=id, video=video, source="mine", split="test", **fields | changes)


@pytest.fixture
def other(tmp_path: Path) -> str:
    """Four questions about three videos, one of them missing, as a set of its own."""
    videos = tmp_path / "other videos"
    videos.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (16, 64, 96, 3), np.uint8)
        write_clip(videos / f"{number}.mp4", noise, fps=8.0)
    asked = [question(f"q{number}", f"{number}.mp4") for number in range(3)]
    write_samples(tmp_path / "other.jsonl", [*asked, question("lost", "3.mp4"), question("again", "0.mp4")])
    return f"+eval.sets.other={{files: '{tmp_path}/other.jsonl', media_root: '{videos}'}}"


def test_a_set_is_prepared_in_its_own_budget(tiny_recipe, other, tmp_path, capsys):
    media = "+eval.sets.other.media={fps: 4, max_frames: 8, min_frames: 8, max_pixels: 7056, min_pixels: 784}"
    run = run_of(tiny_recipe(other, media, "data.max_quarantined=0.3"))
    sets.check(run)
    sets.prepare(run)
    folder = run.paths.set("other")
    samples = list(read_samples(folder / "samples.jsonl"))
    assert [sample.id for sample in samples] == ["q0", "q1", "q2", "again"]
    assert samples[0].video == samples[3].video and (folder / samples[0].video).is_file()
    (lost,) = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert lost["record"] == "lost" and "missing" in lost["reason"]
    assert json.loads((folder / "media.json").read_text())["budget"]["max_frames"] == 8
    assert "4 questions, 1 without a usable video" in capsys.readouterr().out
    assert not run.data.exists()


def test_a_set_is_made_again_only_when_what_it_is_made_of_changes(tiny_recipe, other, tmp_path):
    def made(*overrides: str) -> int:
        run = run_of(tiny_recipe(other, "data.max_quarantined=0.3", *overrides))
        sets.prepare(run)
        return (run.paths.set("other") / "set.json").stat().st_mtime_ns

    first = made()
    assert made() == first == made("+eval.sets.other.reward={schema: think_answer}", "eval.max_tokens=9")
    assert (second := made("+eval.sets.other.limit=2")) != first
    lines = (tmp_path / "other.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(lines[1:]))
    assert made("+eval.sets.other.limit=2") != second


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+eval.sets.a={files: nowhere.jsonl, media_root: .}", r"eval\.sets\.a\.files: nowhere\.jsonl is missing"),
        ("+eval.sets.a={files: README.md, media_root: /nowhere}", r"media root /nowhere is not a folder"),
        ("+eval.sets.a={files: README.md}", r"eval\.sets\.a\.media_root is missing"),
        ("+eval.sets.a={files: README.md, media_root: ., benchmark: mvbanch}", r"benchmark=mvbanch: choose one of"),
        ("+eval.sets.a={files: README.md, media_root: ., source: got}", r"got"),
    ],
)
def test_a_set_that_cannot_be_made_is_refused_before_anything_is_written(tiny_recipe, override, said):
    run = run_of(tiny_recipe(override))
    with pytest.raises((UserError, LaunchError), match=said):
        sets.check(run)
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+eval.sets.a={media_root: x}"], r"sets\.a\.files: missing"),
        (["+eval.sets.test.files=a.jsonl"], r"the run's own test split"),
        (["eval.sets.test=null"], r"nothing to evaluate on"),
        (["+eval.sets.a={files: x, models: [ours]}", "eval.models=[rl]"], r"ours is not in eval\.models"),
        (["+eval.sets.a={files: x, media: big}"], r"eval\.sets\.a\.media=big: no such file of recipes/media.*tiny"),
        (["+eval.sets.a={files: x, limt: 3}"], r"limt"),
    ],
)
def test_a_wrong_set_is_refused_by_its_key(overrides, said):
    with pytest.raises(RecipeError, match=said):
        compose_complete(["experiment=demo", *overrides])


def test_a_media_budget_is_also_named_by_its_file():
    recipe = compose_complete(["experiment=demo", "+eval.sets.a={files: x, media: videop2r}"])
    assert recipe.eval.sets["a"].media.max_frames == 16


def test_too_many_missing_videos_end_the_stage(tiny_recipe, other):
    with pytest.raises(PrepareError, match="1 of 5 questions have broken or missing videos"):
        sets.prepare(run_of(tiny_recipe(other)))


def test_each_set_is_answered_and_scored_by_its_own_models_and_form(tiny_recipe, other, monkeypatch, capsys):
    """Only vLLM is replaced: by one that says what the set's own schema asks for."""
    run = run_of(
        tiny_recipe(
            other,
            "data.max_quarantined=0.3",
            "eval.models={ours: rl, theirs: some/model}",
            "+eval.sets.other.models=[theirs]",
            "+eval.sets.other.reward={schema: answer}",
            "+eval.sets.other.benchmark=samples",
        )
    )
    sets.prepare(run)
    write_samples(run.paths.samples("test"), [question("own", "clips/a.mp4")])
    clip = run.data / "clips/a.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"clip")
    for name in ("merged", "theirs"):
        (run.folder / name).mkdir()
        (run.folder / name / "config.json").write_text("{}")
        (run.folder / name / "model.safetensors").write_text(name)
    monkeypatch.setattr(evaluate, "model_folder", lambda path: run.folder / Path(path).name.replace("model", "theirs"))

    def answer(job, path, log, what):
        for part in job.questions:
            said = "<observation>o</observation><think>t</think><answer>No</answer>"
            said = "<answer>No</answer>" if "other" in part.out.parts else said
            with part.out.open("a") as out:
                for sample in read_samples(part.samples):
                    assert (part.root / sample.video).is_file()
                    out.write(Prediction(id=sample.id, response=said).model_dump_json(exclude_none=True) + "\n")

    monkeypatch.setattr("launch.engines.vllm.job.run_job", answer)
    evaluate.evaluate(run)
    found = {str(path.parent.relative_to(run.paths.eval)) for path in run.paths.eval.rglob("scores.json")}
    assert found == {"test/ours", "test/theirs", "other/theirs"}
    scores = json.loads(run.paths.scores("other", "theirs").read_text())
    assert scores["n"] == 4 and scores["format_rate"] == 1 and scores["official"]["binary"]["accuracy"]["value"] == 1
    facts = json.loads(run.paths.set_facts("other").read_text())
    assert facts["root"] == "sets/other" and list(facts["models"]) == ["theirs"]
    assert facts["models"]["theirs"] == {"is": "some/model", "weights": "some/model"}
    assert "other" in capsys.readouterr().out


def test_questions_about_videos_of_the_training_data_are_counted(tiny_recipe, other, tmp_path):
    """By their content: the training video is a copy under another name."""
    videos = tmp_path / "training"
    videos.mkdir()
    shutil.copy(tmp_path / "other videos" / "0.mp4", videos / "renamed.mp4")
    write_samples(tmp_path / "rl.jsonl", [question("t", "renamed.mp4").model_copy(update={"split": "rl"})])
    data = f"data.files={{rl: '{tmp_path}/rl.jsonl', sft: null, test: null}}"
    given = ["data=files", data, f"data.media_root='{videos}'", "data.max_quarantined=0.3"]
    run = run_of(tiny_recipe(other, *given, "eval.sets.test=null"))
    data_stage.prepare(run)
    sets.prepare(run)
    (asked,) = evaluate.sets(run)
    assert trained_on(run.paths, asked.root, asked.samples) == 2  # q0 and again
    rendered = run_of(tiny_recipe("name=none"))
    assert trained_on(rendered.paths, asked.root, asked.samples) == 0


def test_a_clip_that_no_prompt_has_room_for_is_refused_before_the_clips_are_made(tiny_recipe, other):
    run = run_of(tiny_recipe(other, "+eval.sets.other.media=videop2r_eval"))
    for check in (sets.check, evaluate.check):
        with pytest.raises(RecipeError, match=r"eval\.sets\.other: .* 4096 visual tokens.*vllm\.max_prompt_length=256"):
            check(run)
    assert not run.folder.exists()


def test_a_run_without_a_test_split_says_what_to_leave_out(tiny_recipe):
    run = run_of(tiny_recipe("eval.models={theirs: some/model}"))
    with pytest.raises(LaunchError, match=r"eval\.sets\.test=null"):
        evaluate.check(run)


def test_a_prompt_that_a_sample_cannot_fill_is_refused_before_anything_is_asked(tiny_recipe):
    run = run_of(tiny_recipe("eval.models={theirs: some/model}", "+prompt.questions.binary='{event}?'"))
    write_samples(run.paths.samples("test"), [question("own", "clips/a.mp4")])
    with pytest.raises(LaunchError, match=r"eval\.sets\.test: sample 'own': extras\.event: is missing"):
        evaluate.check(run)


def test_the_sft_model_is_the_trained_one_also_where_rl_starts_from_the_base_model(tiny_recipe):
    run = run_of(tiny_recipe("rl.start_epoch=0", "eval.models=[base,sft]"))
    for step in range(1, run.recipe.sft.num_train_epochs + 1):
        (run.paths.sft / f"checkpoint-{step}").mkdir(parents=True)
    found = evaluate.models(run)
    assert found["sft"].endswith(f"checkpoint-{run.recipe.sft.num_train_epochs}") and found["base"] == run.base_model
    assert replace(run, recipe=tiny_recipe("rl.start_epoch=1")).sft_model.endswith("checkpoint-1")

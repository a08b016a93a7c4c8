"""The command that scores a file of predictions."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import benchmark_labels as made
import numpy as np
import pytest
from small_set import PREDICTIONS, SAMPLES

import evaluation
from data_tools.cli import parse
from data_tools.sample import read_samples, write_samples
from data_tools.sources import SOURCES
from evaluation.benchmarks import BENCHMARKS, benchmark_for, evaluate, set_samples
from evaluation.run_scores import score_run
from evaluation.score import ScoreArguments, main
from rewards.errors import UserError


def run_cli(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "evaluation.score", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(evaluation.__file__).parents[1],
        check=False,
    )


def test_command_prints_the_table_and_writes_the_scores(tmp_path: Path):
    write_samples(tmp_path / "samples.jsonl", SAMPLES)
    lines = "".join(p.model_dump_json() + "\n" for p in PREDICTIONS.values())
    (tmp_path / "predictions.jsonl").write_text(lines)
    done = run_cli(
        f"labels={tmp_path}/samples.jsonl", f"predictions={tmp_path}/predictions.jsonl", f"out={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out/scores.json").read_text())
    assert written["counts"] == {"right": 3, "wrong": 1, "no_option": 1, "malformed": 1, "failed": 1, "missing": 1}
    assert (
        written["parts"]["binary"]["balanced accuracy"]["value"] == score_run(SAMPLES, PREDICTIONS)["balanced_accuracy"]
    )
    assert written["parts"]["binary"]["failures"] == 1
    text = (tmp_path / "out/samples.md").read_text()
    for said in ("balanced accuracy", "always No", "3 videos", "1000 resamples", "best constant per task", "Settings"):
        assert said in text
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".csv", ".tex", ".json"}


def test_command_fails_clearly_on_bad_input(tmp_path: Path):
    write_samples(tmp_path / "samples.jsonl", SAMPLES)
    (tmp_path / "predictions.jsonl").write_text('{"id": "[q1]", "response": "", "finish_reason": "stop"}\n')
    labels, predictions = f"labels={tmp_path}/samples.jsonl", f"predictions={tmp_path}/predictions.jsonl"
    done = run_cli(labels, predictions)
    assert done.returncode == 1
    assert "predictions.jsonl:1: id: '[q1]' is not the id of a sample" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "predictions.jsonl").write_text('{"id": "q1", "response": "A"}\n')
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff")
    for arguments, said in (
        ([labels, f"predictions={tmp_path}/absent.jsonl"], "no such file of predictions"),
        ([labels, "benchmark=unheard_of"], "benchmark=unheard_of: choose one of"),
        ([labels, "prediction=x"], "prediction: unknown key"),
        ([labels], "predictions=... is missing"),
        ([predictions], "labels=... is missing"),
        ([labels, "benchmark=dream1k", predictions], "dream1k needs a judge"),
        ([labels, predictions, "seed=x"], "seed: Input should be a valid integer"),
        ([labels, predictions, "seed=-1"], "seed: Input should be greater than or equal to 0"),
        ([labels, predictions, "votes=perhaps"], "votes: Input should be a valid boolean"),
        ([labels, predictions, "schema=unheard_of"], "schema 'unheard_of': choose one of"),
        ([labels, predictions, "judge=unheard_of"], "judge 'unheard_of'"),
        ([labels, predictions, "before=x"], "only video_mmmu"),
        ([labels, predictions, "only=none_such"], "no label of none_such"),
        ([labels, predictions, "benchmark=mmvu", "only=all"], "parts cannot be chosen"),
        ([f"labels={tmp_path}/bytes.jsonl", predictions, "benchmark=mmvu"], "not text in UTF-8"),
    ):
        with pytest.raises(UserError) as error:
            main(parse(ScoreArguments, arguments))
        assert said in str(error.value)


@pytest.fixture
def two_sets(tmp_path: Path) -> Path:
    """A folder with the samples of two of CameraBench's sets in one file, and a model's answers to all of them."""
    binary = set_samples("camerabench_binary", made.camerabench_binary(tmp_path / "binary"))
    vqa = set_samples("camerabench_vqa", made.camerabench_vqa(tmp_path / "vqa"))
    write_samples(tmp_path / "test.jsonl", [*binary, *vqa])
    rng = np.random.default_rng(0)
    lines = [json.dumps({"id": s.id, "response": str(rng.choice(["Yes", "No"]))}) for s in [*binary, *vqa]]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def scored(benchmark: str, folder: Path, labels: str, *more: str) -> dict:
    out = folder / f"{benchmark}-{labels}"
    words = [f"benchmark={benchmark}", f"labels={folder}/{labels}", f"predictions={folder}/predictions.jsonl"]
    main(parse(ScoreArguments, [*words, f"out={out}", *more]))
    return json.loads((out / "scores.json").read_text())


def test_a_file_of_several_sets_is_scored_set_by_set(two_sets: Path, capsys):
    for name, folder, whole, n, other in (
        ("camerabench_binary", "binary", "macro over 15 primitives", 180, "648 of camerabench_vqa"),
        ("camerabench_vqa", "vqa", "mean over 9 skills", 648, "180 of camerabench_binary"),
    ):
        from_samples = scored(name, two_sets, "test.jsonl")
        assert f"828 samples = {n} scored + {other}" in capsys.readouterr().out
        with pytest.raises(UserError, match="is not the id of a sample.*leave_out=true"):
            scored(name, two_sets, folder)
        from_files = scored(name, two_sets, folder, "leave_out=true")
        assert f"{828 - n} predictions of other questions are left out" in capsys.readouterr().out
        assert from_samples["parts"] == from_files["parts"] and from_files["parts"][whole]["n"] == n


def test_a_benchmark_refuses_samples_that_are_not_its_own(two_sets: Path, tmp_path: Path):
    vqa = [s for s in read_samples(two_sets / "test.jsonl") if s.source == "camerabench_vqa"]
    binary = BENCHMARKS["camerabench_binary"]
    with pytest.raises(UserError, match="camerabench_binary scores samples of camerabench_binary and camreasoner_eval"):
        asyncio.run(evaluate(binary, vqa, {}, settings="0" * 12))
    with pytest.raises(UserError, match="the labels hold samples of camerabench_vqa only: benchmark=samples"):
        binary.own(vqa)
    with pytest.raises(UserError, match=r"extras: camerabench_vqa needs pair, asks, shows$"):
        BENCHMARKS["camerabench_vqa"].own([vqa[0].model_copy(update={"extras": {"skill": "one"}})])
    write_samples(tmp_path / "vqa.jsonl", vqa)
    (two_sets / "none.jsonl").write_text('{"id": "other", "response": "Yes"}\n')
    with pytest.raises(UserError, match="no prediction in it is of a sample"):
        words = [f"labels={tmp_path}/vqa.jsonl", f"predictions={two_sets}/none.jsonl", "leave_out=true"]
        main(parse(ScoreArguments, ["benchmark=camerabench_vqa", *words]))


def test_every_source_of_a_benchmark_finds_it():
    for name, benchmark in BENCHMARKS.items():
        assert all(benchmark_for(source) is benchmark for source in benchmark.sources)
        assert (name == "samples") == (not benchmark.sources)
    trained_on = {"camerabench_train", "camreasoner_sft", "camreasoner_rl", "video_r1", "video_r1_cot"}
    trained_on |= {"onethinker", "onethinker_sft", "carebench"}
    own = {name for name, source in SOURCES.items() if source.licence == "your own"}
    assert {name for name in SOURCES if benchmark_for(name).name == "samples"} == trained_on | own


def test_help_lists_every_key_with_its_meaning():
    done = run_cli("--help")
    assert done.returncode == 0
    for key, field in ScoreArguments.model_fields.items():
        assert f"  {field.alias or key}=" in done.stdout and field.description in done.stdout


def test_a_judge_is_named_with_its_settings():
    arguments = parse(ScoreArguments, ["judge.url=http://localhost", "judge=endpoint", "judge.retries=3"])
    assert arguments.judge == {"name": "endpoint", "url": "http://localhost", "retries": 3}
    assert parse(ScoreArguments, ["judge=null"]).judge is None

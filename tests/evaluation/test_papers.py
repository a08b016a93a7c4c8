"""Ablation tables of the papers from run folders."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from data_tools.cli import UsageError, parse
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples, write_samples
from evaluation import papers, printed
from evaluation.benchmarks import BENCHMARKS
from evaluation.measures.bootstrap import Estimate
from evaluation.papers import PapersArguments
from evaluation.predictions import Prediction
from evaluation.report.sets import beside_the_paper
from evaluation.run_scores import score_set, write_scores
from evaluation.runs import RunError, models_of
from evaluation.table import Metric, Row, Table
from launch import checks
from launch.compose import compose_recipe


def with_recipe(run: Path, name: str, **settings) -> Path:
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    (copy / "recipe.yaml").write_text(
        yaml.safe_dump({"name": name, "advantage": {"name": "ema_grpo"}, "rl": {"start_epoch": 1}, **settings})
    )
    return copy


@pytest.mark.parametrize("name", printed.papers())
def test_figures_of_the_papers_fill_their_tables(name):
    spec = printed.papers()[name]
    for row in spec["rows"].values():
        of_row = row.get("figures", {})
        for figures in of_row.values() if isinstance(of_row, dict) else [of_row]:
            assert len(figures) == len(spec["columns"])
        assert "model" in row or of_row
    for column in papers.columns_of(spec["columns"]) + papers.columns_of(spec.get("demo", {}).get("columns", {})):
        known = {metric.name for metric in BENCHMARKS[column.benchmark].metrics}
        assert {column.metric} <= known if column.metric else set(spec["metrics"]) <= known


def test_lambda_table_finds_its_runs_by_recipe(run: Path, tmp_path: Path):
    runs = [
        with_recipe(run, f"l{weight}", reward={"name": "camreasoner", "format_weight": weight}) for weight in (0.1, 0.5)
    ]
    table, absent = papers.build("camreasoner4", {str(r): r for r in runs})
    names = [row.name for row in table.rows]
    assert names[:4] == ["λ = 0.0 (no run)", "λ = 0.1 (l0.1)", "λ = 0.3 (no run)", "λ = 0.5 (l0.5)"]
    assert table.rows[1].values[-2].value == pytest.approx(0.784)  # CamReasoner, Table 4
    assert table.rows[0].values[0] is None
    assert table.rows[1].values[0].low is not None
    assert set(absent) == {"lambda00", "lambda03"}
    assert "reward.format_weight=0.3" in absent["lambda03"]
    twice = with_recipe(run, "again", reward={"name": "camreasoner", "format_weight": 0.1})
    with pytest.raises(UsageError, match="all fit"):
        papers.build("camreasoner4", {str(r): r for r in (*runs, twice)})
    named, _ = papers.build("camreasoner4", {"lambda01": twice})
    assert named.rows[1].name == "λ = 0.1 (again)"
    papers.main(parse(PapersArguments, ["table=camreasoner3", f"runs={runs[0].parent}/l0*", f"out={tmp_path}/out"]))
    assert "78.4" in (tmp_path / "out/camreasoner3.md").read_text()
    for table, wrong, said in (
        ("camreasoner3", f"{tmp_path}/nothing*", "no such folder"),
        ("unheard_of", runs[0], "choose one of"),
        ("camreasoner4", f"first={runs[0]}", "not a row of CamReasoner, Table 4"),
        ("camreasoner4", "", "no such folder"),
    ):
        with pytest.raises(UsageError, match=said):
            papers.main(parse(PapersArguments, [f"table={table}", f"runs={wrong}"]))


def test_runs_with_other_questions_cannot_stand_in_one_table(run: Path):
    other = with_recipe(run, "other", reward={"name": "camreasoner", "format_weight": 0.3})
    samples = [s.model_copy(update={"question": "Else?"}) for s in read_samples(other / "eval/test/samples.jsonl")]
    write_samples(other / "eval/test/samples.jsonl", samples)
    first = with_recipe(run, "same", reward={"name": "camreasoner", "format_weight": 0.1})
    with pytest.raises(UsageError, match="different test questions"):
        papers.build("camreasoner4", {str(r): r for r in (first, other)})


def test_analyses_of_a_report_have_the_papers_lines_beside_them():
    """VideoP2R, section 5.3 and figure 6 (d), where the run's reward is VideoP2R's."""
    average, value = "micro", Estimate(0.5, 0.4, 0.6)
    for name, columns, at, figure in (("observed", 2, 1, 0.555), ("process", 4, 2, 0.05)):
        rows = [Row("ours", (value,) * columns, 1, 0, 0), Row("constant", (value,) * columns, 1, 0, 0, "baseline")]
        metrics = tuple(Metric(str(column), average) for column in range(columns))
        table = Table(name, "An analysis", metrics, tuple(rows), "95 %", "0" * 12)
        assert beside_the_paper(table, {"reward": {"name": "camreasoner"}}) is table
        found = beside_the_paper(table, {"reward": {"name": "videop2r"}})
        theirs = [row for row in found.rows if row.kind == "paper"]
        assert figure in [row.values[at] and row.values[at].value for row in theirs]
        assert all(row.name.endswith("†") for row in theirs) and "VideoP2R, Figure" in found.note


def changed(experiment: str, row: dict):
    recipe, _ = compose_recipe([f"experiment={experiment}", *shlex.split(row.get("change", ""))])
    checks.check_rewards(recipe)
    return recipe


@pytest.mark.parametrize("name", printed.papers())
def test_what_a_row_changes_makes_a_run_of_that_row_alone(name):
    """At 7B, and where there is one in the demo: it composes, fits its row, and no row of another change."""
    spec = printed.papers()[name]
    rows = {id: row for id, row in spec["rows"].items() if "when" in row}
    for experiment in [spec["experiment"], *([spec["demo"]["experiment"]] if "demo" in spec else [])]:
        for id, row in rows.items():
            recipe = changed(experiment, row)
            assert row["model"] in recipe.models
            made = recipe.model_dump(mode="json")
            alike = {of: other for of, other in rows.items() if other["model"] == row["model"]}
            fits = {other.get("change") for other in alike.values() if papers.matches(other["when"], made)}
            assert fits == {row.get("change")}, (experiment, id, fits)


def test_a_study_fills_its_table_from_the_sets_that_its_benchmarks_scored(run: Path):
    """CameraBench's official parts, as stage evaluate leaves them, beside the paper's lines of the same metric."""
    samples = [
        Sample(
            id=f"{primitive}_{number}",
            video=f"{number}.mp4",
            question="Does it?",
            options=["No", "Yes"],
            answer="AB"[number % 2],
            task="binary",
            source="camerabench_binary",
            split="test",
        )
        for primitive in ("Move_In", "Static")
        for number in range(6)
    ]
    folder = RunFolder(run)
    for model, right in (("base", 3), ("rl", 6)):
        said = {s.id: s.answer_text if i % 6 < right else "No" for i, s in enumerate(samples)}
        predictions = {id: Prediction(id=id, response=f"<answer>{answer}</answer>") for id, answer in said.items()}
        scores = score_set(BENCHMARKS["camerabench_binary"], samples, predictions, schema="answer")
        folder.scores("binary", model).parent.mkdir(parents=True)
        write_scores(folder.scores("binary", model), scores)
    write_samples(folder.asked("binary"), samples)
    models = {"released": {"is": "LaurentWu/CamReasoner-7B"}, "before": {"is": "base"}, "rl": {"is": "rl"}}
    facts = {"models": models, "benchmark": "camerabench_binary", "reward": {}, "root": "sets/binary", "seed": 0}
    folder.set_facts("binary").write_text(json.dumps(facts))
    folder.scores("binary", "before").parent.mkdir()
    shutil.copy(folder.scores("binary", "base"), folder.scores("binary", "before"))
    shutil.copytree(folder.scores("binary", "rl").parent, folder.scores("binary", "released").parent)
    settings = {"reward": {"name": "camreasoner", "format_weight": 0.1}, "rl": {"start_epoch": 1}}
    study = with_recipe(run, "study", **settings)
    table, absent = papers.build("camreasoner1", {str(study): study})
    rows = {row.name: row for row in table.rows}
    ours, theirs = rows["CamReasoner-7B (study) · accuracy"], rows["CamReasoner-7B† · accuracy"]
    assert ours.n == 12 and ours.values[0].value == 1 and ours.values[-1].value == 1 and ours.values[1] is None
    assert theirs.kind == "paper" and theirs.values[-1].value == pytest.approx(0.784)
    base, trivial = rows["Qwen2.5-VL-7B (study) · accuracy"], rows["best trivial · accuracy"]
    assert base.values[-1].value == pytest.approx(4 / 6) and 0.5 <= trivial.values[-1].value < 4 / 6
    assert rows["CamReasoner-7B as released (study) · accuracy"].values[0].value == 1
    assert "Qwen2.5-VL-7B† · AP" in rows and "Qwen2.5-VL-7B† · accuracy" not in rows
    assert absent == {"sft": "make data sets model sft rl merge evaluate EXPERIMENT=camreasoner"}
    assert "camerabench_binary, part and metric as column and line say" in table.caption
    with pytest.raises(UsageError, match="was asked its benchmarks"):
        papers.build("camreasoner2", {str(study): study})
    released = printed.papers()["camreasoner2"]["rows"]["released"]
    assert "eval.models={released: LaurentWu/CamReasoner-7B}" in papers.command("camreasoner", "released", released)


def test_other_models_are_taken_from_the_run_that_the_table_is_about(run: Path):
    runs = []
    for name, weight in (("a", 0.3), ("b", 0.1)):
        # recipe.yaml as a later stage with other overrides leaves it; the stage's own record holds.
        made = with_recipe(run, name, reward={"name": "camreasoner", "format_weight": 9})
        record = {"settings": {"reward": {"name": "camreasoner", "format_weight": weight}}}
        (made / "stages/rl.json").write_text(json.dumps(record))
        runs.append(made)
    found = papers.find(printed.papers()["camreasoner3"], {str(run): run for run in runs}, ["samples"])
    assert {id: (of.run.root, of.model) for id, of in found.items()} == {
        key: (runs[1], key) for key in ("base", "sft", "rl")
    }
    (runs[0] / "recipe.yaml").write_text("name: [")
    with pytest.raises(RunError, match="recipe.yaml: not YAML"):
        models_of(RunFolder(runs[0]))

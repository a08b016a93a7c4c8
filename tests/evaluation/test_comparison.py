"""Models side by side on the questions that they share."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_set import PREDICTIONS, says
from small_set import SAMPLES as SMALL

from data_tools.cli import UsageError, parse
from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples, write_samples
from evaluation import compare
from evaluation.benchmarks import LabelError
from evaluation.benchmarks.benchmark import difference
from evaluation.benchmarks.samples import SAMPLES
from evaluation.comparison import ComparisonError, common_ids, comparison_tables, measured
from evaluation.report.load import gains
from evaluation.runs import Model, RunError, models_of


def test_runs_are_compared_on_the_questions_that_they_share(run: Path):
    models = models_of(RunFolder(run))
    table, changes = comparison_tables(SAMPLES, measured(SAMPLES, models))
    binary = {row.name: row for row in changes.rows}["SFT + RL − Base · binary"]
    (gain,) = gains(measured(SAMPLES, [models[0], models[2]]).parts)
    column = [metric.name for metric in changes.metrics].index("balanced accuracy")
    assert binary.values[column] == gain
    assert any(row.kind == "baseline" for row in table.rows)
    (sft,) = models_of(RunFolder(run), ["sft"])
    fewer = replace(sft, samples=sft.samples[3:])
    assert common_ids([models[0], fewer]) == [s.id for s in models[0].samples[3:]]
    other = sft.samples[3].model_copy(update={"question": "Another one?"})
    with pytest.raises(ComparisonError, match="another question"):
        common_ids([models[0], replace(sft, samples=[other])])


def test_gain_is_zero_against_itself_and_signed():
    right = Model("right", SMALL, {s.id: says(s.id, s.answer) for s in SMALL})
    actual = Model("actual", SMALL, PREDICTIONS)
    none, up, down = (
        gains(measured(SAMPLES, pair).parts)[0] for pair in ((actual, actual), (actual, right), (right, actual))
    )
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)
    assert up.value == pytest.approx(7 / 12)
    assert up.low <= up.value <= up.high
    assert down.value == -up.value
    parts = [measured(SAMPLES, [Model("m", samples, {})]).parts[0]["binary"] for samples in (SMALL, SMALL[1:])]
    with pytest.raises(ValueError, match="same questions"):
        difference(*parts)


def test_compare_command(run: Path, tmp_path: Path):
    compare.main(parse(compare.CompareArguments, [f"{run}:base", f"{run}:rl", f"out={tmp_path}/out"]))
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"compare.md", "compare_differences.tex", "compare.json"}
    assert "first · SFT + RL − first · Base · binary" in (tmp_path / "out/compare_differences.md").read_text()
    for files, error, said in (
        ([str(tmp_path / "absent"), f"{run}:rl"], RunError, "recipe.yaml is missing"),
        ([f"{run}:base", f"{run}:unheard_of"], RunError, "unheard_of/predictions.jsonl is missing: run the stage"),
        ([f"{run}:base"], UsageError, "two or more"),
    ):
        with pytest.raises(error, match=said):
            compare.main(parse(compare.CompareArguments, files))
    files = [str(run / f"eval/test/{key}/predictions.jsonl") for key in ("base", "rl")]
    _, models, _ = compare.load(parse(compare.CompareArguments, [*files, f"labels={run}/data/test.jsonl"]))
    assert [model.name for model in models] == files  # both are called predictions.jsonl


def test_runs_are_compared_on_the_samples_of_a_benchmark(run: Path):
    files = [f"{run}:base", f"{run}:rl"]
    with pytest.raises(LabelError, match="hold samples of synthetic only"):
        compare.load(parse(compare.CompareArguments, [*files, "benchmark=camerabench_vqa"]))
    samples = [s.model_copy(update={"source": "mvbench"}) for s in read_samples(run / "eval/test/samples.jsonl")][:3]
    rest = list(read_samples(run / "eval/test/samples.jsonl"))[3:]
    write_samples(run / "eval/test/samples.jsonl", [*samples, *rest])
    _, models, said = compare.load(parse(compare.CompareArguments, [*files, "benchmark=mvbench"]))
    assert [model.samples for model in models] == [samples, samples]
    assert all(line.endswith(f"{len(rest)} of synthetic") for line in said) and len(said) == 2

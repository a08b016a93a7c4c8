"""Points of a sweep, what they share, and a sweep whose points partly fail (stages replaced by small programs)."""

import json

import pytest

from launch import sweep
from launch.errors import LaunchError
from launch.recipe import RecipeError
from launch.run import open_run, stage

RL = ["rl", "merge", "evaluate"]


@pytest.fixture
def runs(tmp_path):
    return f"runs={tmp_path / 'runs'}"


def do(run, *names: str) -> None:
    for name in names:
        (run.folder / name).mkdir(parents=True, exist_ok=True)
        with stage(run, name):
            pass


def test_points_are_all_combinations_in_order(runs):
    found = sweep.points([runs, "reward.format_weight=0.0,0.5", "seed=0,1"], RL)
    assert [point.values for point in found] == [
        {"reward.format_weight": weight, "seed": seed} for weight in ("0.0", "0.5") for seed in ("0", "1")
    ]
    assert [point.run.folder.name for point in found] == [
        *("main-format_weight0.0-seed0", "main-format_weight0.0-seed1"),
        *("main-format_weight0.5-seed0", "main-format_weight0.5-seed1"),
    ]
    # The reward changes no shared stage; another seed changes them all.
    assert [point.base.folder.name for point in found] == ["main", "main-seed1", "main", "main-seed1"]
    assert found[2].run.recipe.reward.settings["format_weight"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["seed=0"], "nothing to sweep"),
        (["name=a,b"], "name is made from"),
        (["seed=0,x"], "seed"),
        (["no.such=1,2"], "no.such"),
    ],
)
def test_wrong_sweeps_are_refused(runs, overrides, named):
    with pytest.raises(RecipeError, match=named):
        sweep.points([runs, *overrides], RL)


def test_shared_stages_are_linked_and_declared(runs):
    point = sweep.points([runs, "reward.format_weight=0.0,0.5"], RL)[1]
    base = open_run(point.base.recipe)
    do(base, "data", "model", "sft")
    sweep.link(point.run, base, ["data", "model", "sft"])
    assert (point.run.folder / "data").resolve() == base.folder / "data"
    shared = json.loads((point.run.folder / "shared.json").read_text())
    assert shared == {"base": str(base.folder), "stages": ["data", "model", "sft"]}
    run = open_run(point.run.recipe)
    with stage(run, "rl") as needed:
        assert needed
    do(open_run(base.recipe.model_copy(update={"force": True})), "data")  # the base is made again: not silently
    with pytest.raises(LaunchError, match="older than data"), stage(run, "rl"):
        pass


def test_a_base_with_other_settings_is_not_shared(runs):
    point = sweep.points([runs, "reward.format_weight=0.0,0.5"], RL)[0]
    other = sweep.points([runs, "seed=3,4", "name=other"], RL)[0].base
    do(open_run(other.recipe), "data")
    with pytest.raises(LaunchError, match="other settings"):
        sweep.link(point.run, other, ["data"])
    with pytest.raises(LaunchError, match="not done"):
        sweep.link(point.run, other, ["model"])


def test_what_a_point_has_of_its_own_is_not_replaced(runs):
    point = sweep.points([runs, "reward.format_weight=0.0,0.5"], RL)[0]
    base = open_run(point.base.recipe)
    do(base, "data")
    do(open_run(point.run.recipe), "data")
    with pytest.raises(LaunchError, match="the point's own"):
        sweep.link(point.run, base, ["data"])


def test_an_experiment_without_sft_needs_none(runs):
    with_sft, without = (
        sweep.points([runs, f"rl.start_epoch={epoch}", "reward.format_weight=0.0,0.5"], RL)[0].run.recipe
        for epoch in (1, 0)
    )
    assert sweep.needed(with_sft, RL) == ["data", "model", "sft"] and sweep.needed(without, RL) == ["data", "model"]


def fake_stages(monkeypatch, failing: str) -> list[tuple[str, str]]:
    """Stages that only write what the table reads; `failing` names a point whose RL fails."""
    asked = []

    def run_stage(name, overrides):
        run = open_run(sweep._compose(overrides))
        asked.append((name, run.recipe.name))
        if name == "rl" and run.recipe.name.endswith(failing):
            return False
        do(run, name)
        if name == "rl":
            lines = [{"step": s, "data": {"reward/accuracy": s / 10, "reward/format": 1.0}} for s in range(1, 8)]
            (run.folder / "rl" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            record = {"group": "g", "accuracy": 1.0, "format": 1.0}
            (run.folder / "rl" / "rollouts").mkdir()
            (run.folder / "rl" / "rollouts" / "1.jsonl").write_text(json.dumps(record) + "\n")
        if name == "evaluate":
            (run.folder / "eval" / "rl").mkdir(parents=True)
            scores = {"balanced_accuracy": 0.75, "balanced_accuracy_ci": [0.7, 0.8], "format_rate": 1.0}
            (run.folder / "eval" / "rl" / "scores.json").write_text(json.dumps(scores))
        return True

    monkeypatch.setattr(sweep, "_run_stage", run_stage)
    return asked


def test_a_failed_point_does_not_end_the_sweep(runs, monkeypatch, capsys):
    asked = fake_stages(monkeypatch, failing="0.1")
    assert sweep.main([runs, "reward.format_weight=0.0,0.1,0.5"]) == 1
    assert [name for name, run in asked if run == "main"] == ["data", "model", "sft"]  # once, for all points
    assert ("evaluate", "main-format_weight0.5") in asked and ("merge", "main-format_weight0.1") not in asked
    shown = capsys.readouterr().out
    assert "rl failed; again:" in shown and "-m launch.rl" in shown
    folder = sweep.points([runs, "reward.format_weight=0.0,0.1"], RL)[0].run.folder.parent
    rows = json.loads((folder / "sweep-format_weight.json").read_text())
    assert [row["state"] for row in rows] == ["done", "rl failed", "done"]
    assert rows[0]["reward/accuracy"] == pytest.approx(0.5)  # of the last five of seven steps
    assert rows[0]["interval"] == [0.7, 0.8]


def test_the_counterfactual_stands_beside_a_lambda_sweep(runs, monkeypatch):
    fake_stages(monkeypatch, failing="never")
    found = sweep.run([runs, "reward.format_weight=0.0,0.5"], ["rl"])
    assert [row["lambda"] for row in sweep.counterfactual(found)] == [0.0, 0.5]
    assert len(list(sweep.tables(found))) == 2


def test_a_failed_base_is_named(runs, monkeypatch):
    monkeypatch.setattr(sweep, "_run_stage", lambda name, _: name != "model")
    found = sweep.run([runs, "reward.format_weight=0.0,0.5"], ["rl"])
    assert {point.state for point in found} == {"model of its base failed"}


@pytest.mark.parametrize(("argument", "named"), [("sweep.stages=cook", "choose of"), ("sweep.at_oncee=2", "at_oncee")])
def test_the_sweeps_own_settings_are_checked(runs, argument, named, capsys):
    assert sweep.main([runs, "seed=0,1", argument]) == 1
    assert named in capsys.readouterr().err

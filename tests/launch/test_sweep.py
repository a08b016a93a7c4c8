"""Points of a sweep, what they share, and a sweep whose points partly fail (stages replaced by small programs)."""

import json
import os
import sys

import pytest

from data_tools.cli import guarded
from launch import command as doors
from launch.cluster import launchers, results, sweep
from launch.compose import compose_complete
from launch.errors import LaunchError
from launch.recipe import RecipeError
from launch.run import run_of, stage
from launch.stages import all_needs

RL = ["rl", "merge", "evaluate"]


@pytest.fixture
def runs(tmp_path):
    return f"runs={tmp_path / 'runs'}"


def points(overrides: list[str], stages: list[str]) -> list[sweep.Point]:
    """As Hydra's sweeper gives them to a launcher."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
    fixed = [o.input_line for o in parsed if not o.is_sweep_override()]
    return sweep.points(fixed, BasicSweeper.split_arguments(parsed, None)[0], stages)


def multirun(monkeypatch, *arguments: str, stages=("rl", "merge", "evaluate")) -> int:
    """Exit code of a command with `-m`."""
    monkeypatch.setattr(sys, "argv", ["launch.x", "-m", *arguments])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as exit:
        doors.hydra_command(lambda config: None, stages=stages)()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return exit.value.code


def do(run, *names: str) -> None:
    for name in names:
        run.output(name).mkdir(parents=True, exist_ok=True)
        with stage(run, name):
            pass


def test_points_are_all_combinations_in_order(runs):
    found = points([runs, "reward.format_weight=0.0,0.5", "seed=0,1"], RL)
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
        (["data.media_root='a!b','a?b'"], "two points"),
    ],
)
def test_wrong_sweeps_are_refused(runs, overrides, named):
    with pytest.raises(RecipeError, match=named):
        points([runs, *overrides], RL)


def test_shared_stages_are_linked_and_declared(runs):
    point = points([runs, "reward.format_weight=0.0,0.5"], RL)[1]
    base = run_of(point.base.recipe)
    do(base, "data", "model", "sft")
    sweep.link(point.run, base, ["data", "model", "sft"])
    assert (point.run.folder / "data").resolve() == base.folder / "data"
    shared = json.loads((point.run.folder / "shared.json").read_text())
    assert shared == {"base": str(base.folder), "stages": ["data", "model", "sft"]}
    run = run_of(point.run.recipe)
    with stage(run, "rl") as needed:
        assert needed
    do(run_of(base.recipe.model_copy(update={"force": True})), "data")  # the base is made again: not silently
    with pytest.raises(LaunchError, match="older than data"), stage(run, "rl"):
        pass


def test_a_base_with_other_settings_is_not_shared(runs):
    point = points([runs, "reward.format_weight=0.0,0.5"], RL)[0]
    other = points([runs, "seed=3,4", "name=other"], RL)[0].base
    do(run_of(other.recipe), "data")
    with pytest.raises(LaunchError, match="other settings"):
        sweep.link(point.run, other, ["data"])
    with pytest.raises(LaunchError, match="not done"):
        sweep.link(point.run, other, ["model"])


def test_what_a_point_has_of_its_own_is_not_replaced(runs):
    point = points([runs, "reward.format_weight=0.0,0.5"], RL)[0]
    base = run_of(point.base.recipe)
    do(base, "data")
    do(run_of(point.run.recipe), "data")
    with pytest.raises(LaunchError, match="the point's own"):
        sweep.link(point.run, base, ["data"])


def test_an_experiment_without_sft_needs_none(runs):
    point = points([runs, "rl.start_epoch=0", "reward.format_weight=0.0,0.5"], RL)[0]
    assert all_needs("rl", point.run.recipe) == ["data", "model"]


def fake_stages(monkeypatch, failing: str) -> list[tuple[str, str]]:
    """Stages that only write what the table reads; `failing` names a point whose RL fails."""
    asked = []

    def run_stage(name, overrides):
        run = run_of(compose_complete(overrides))
        asked.append((name, run.recipe.name))
        if name == "rl" and run.recipe.name.endswith(failing):
            return False
        do(run, name)
        if name == "rl":
            lines = [{"step": s, "data": {"reward/accuracy": s / 10, "reward/format": 1.0}} for s in range(1, 8)]
            (run.folder / "rl" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            record = {
                "step": 1,
                "rollout": "r",
                "id": "s",
                "task": "binary",
                "group": "g",
                "advantage": 0.0,
                "sample": {},
            }
            record |= {"prompt": "p", "response": "r", "response_tokens": 1, "truncated": False}
            record |= {"score": 1.0, "accuracy": 1.0, "format": 1.0}
            (run.folder / "rl" / "rollouts").mkdir()
            (run.folder / "rl" / "rollouts" / "1.jsonl").write_text(json.dumps(record) + "\n")
        if name == "evaluate":
            (run.folder / "eval" / "test" / "rl").mkdir(parents=True)
            scores = {"balanced_accuracy": 0.75, "balanced_accuracy_ci": [0.7, 0.8], "format_rate": 1.0}
            (run.folder / "eval" / "test" / "rl" / "scores.json").write_text(json.dumps(scores))
        return True

    monkeypatch.setattr(launchers, "run_stage", run_stage)
    return asked


@pytest.mark.e2e
def test_a_failed_point_does_not_end_the_sweep(runs, monkeypatch, capsys, tmp_path):
    asked = fake_stages(monkeypatch, failing="0.1")
    monkeypatch.chdir(tmp_path)
    assert multirun(monkeypatch, runs, "reward.format_weight=0.0,0.1,0.5") == 1
    assert [name for name, run in asked if run == "main"] == ["data", "model", "sft"]  # once, for all points
    assert ("evaluate", "main-format_weight0.5") in asked and ("merge", "main-format_weight0.1") not in asked
    shown = capsys.readouterr().out
    assert "rl failed; again:" in shown and "-m launch.rl" in shown
    rows = json.loads((tmp_path / "runs" / "demo" / "sweep-format_weight.json").read_text())
    assert [row["state"] for row in rows] == ["done", "rl failed", "done"]
    assert rows[0]["reward/accuracy"] == pytest.approx(0.5)  # of the last five of seven steps
    assert rows[0]["interval"] == [0.7, 0.8]
    assert os.listdir(tmp_path) == ["runs"] and os.getcwd() == str(tmp_path)  # Hydra leaves nothing of its own


def test_the_counterfactual_stands_beside_a_lambda_sweep(runs, monkeypatch):
    fake_stages(monkeypatch, failing="never")
    shown = []
    monkeypatch.setattr(launchers, "show", lambda found: shown.extend(found) or [])
    assert multirun(monkeypatch, runs, "reward.format_weight=0.0,0.5", stages=["rl"]) == 0
    assert [row["lambda"] for row in results.counterfactual(shown)] == [0.0, 0.5]
    table, _ = results.tables(shown)
    assert "fidelity" not in [column.header for column in table.columns]  # which no point has
    line = {"step": 8, "data": {"reward/accuracy": 0.5, "reward/fidelity": 0.25}}
    shown[1].run.paths.rl_metrics.write_text(json.dumps(line) + "\n")
    table, _ = results.tables(shown)
    (fidelity,) = [column for column in table.columns if column.header == "fidelity"]
    assert list(fidelity.cells) == ["–", "0.250"]


def test_hydras_own_sweep_syntax_makes_the_points(runs, monkeypatch):
    asked = fake_stages(monkeypatch, failing="never")
    assert multirun(monkeypatch, runs, "seed=range(0,2)", "rl.kl_coef=choice(0,0.1)", stages=["rl"]) == 0
    assert {name for stage, name in asked if stage == "rl"} == {
        f"main-seed{seed}-kl_coef{coef}" for seed in (0, 1) for coef in ("0", "0.1")
    }


def test_a_failed_base_is_named(runs, monkeypatch, capsys):
    monkeypatch.setattr(launchers, "run_stage", lambda name, _: name != "model")
    assert multirun(monkeypatch, runs, "reward.format_weight=0.0,0.5", stages=["rl"]) == 1
    assert capsys.readouterr().out.count("model of its base failed; again") == 2


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("hydra.launcher.stages=[cook]", "choose from"),
        ("hydra.launcher.at_oncee=2", "at_oncee"),
        ("seed=0,x", "seed"),
    ],
)
def test_the_sweeps_own_settings_are_checked(runs, argument, named, monkeypatch, capsys):
    assert multirun(monkeypatch, runs, "reward.format_weight=0,1", argument) == 1
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error


def test_an_interrupted_stage_of_a_sweep_is_told_once(monkeypatch, capsys):
    """Ctrl-C reaches the stage too, whose own line is enough."""

    class Stage:
        def __init__(self, *_, **__):
            self.waits = iter([KeyboardInterrupt, 130])

        def wait(self):
            if (end := next(self.waits)) is KeyboardInterrupt:
                raise KeyboardInterrupt
            return end

    monkeypatch.setattr(launchers.subprocess, "Popen", Stage)
    with pytest.raises(SystemExit) as stopped:
        guarded(lambda: launchers.run_stage("rl", []))
    assert stopped.value.code == 130 and capsys.readouterr().err == ""

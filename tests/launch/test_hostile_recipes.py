"""Recipes from elsewhere: they choose what runs, not which code, which folders are deleted, and which secrets leave."""

import subprocess
import sys

import pytest

from launch.compose import compose_complete
from launch.engines.verl.config import render
from launch.errors import LaunchError
from launch.recipe import ROOT, RecipeError
from launch.run import run_of, stage


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Writes an experiment of the user's own folder of recipes, and gives the overrides that choose it."""

    def write(text: str) -> list[str]:
        folder = tmp_path / "recipes" / "experiment"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "own.yaml").write_text(f"# @package _global_\ndefaults: [demo]\n{text}\n")
        monkeypatch.setenv("CAMREASONER_RECIPES", str(folder.parent))
        return ["experiment=own", f"runs={tmp_path}/runs"]

    return write


@pytest.mark.parametrize(
    "key", ["name: ", "model: {path: ", "rl: {engine: {trainer: {project_name: ", "eval: {sets: {a: "]
)
def test_a_secret_of_the_environment_is_refused_without_being_shown(experiment, monkeypatch, key):
    """Run folders keep recipes, and pages, model cards and trackers show them."""
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret_1")
    closing = "}" * key.count("{")
    given = experiment("experiment: own\n" + key + '"${oc.env:HF_TOKEN}"' + closing)
    with pytest.raises(RecipeError, match=r"holds the value of \$HF_TOKEN") as refused:
        compose_complete(given)
    assert "hf_very" not in str(refused.value)
    with pytest.raises(RecipeError, match=r"name holds the value"):  # or by hand
        compose_complete(["name=hf_very_secret_1"])
    monkeypatch.setenv("SCRATCH", "/scratch/somebody")
    assert compose_complete(["runs=${oc.env:SCRATCH}"]).runs == "/scratch/somebody"


def test_nothing_is_replaced_a_second_time_where_an_engine_reads_it(experiment, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret_1")
    given = experiment("rl: {engine: {trainer: {project_name: '\\${oc.env:HF_TOKEN}'}}}")
    with pytest.raises(RecipeError, match=r"rl\.engine\.trainer\.project_name holds `\$\{`"):
        compose_complete(given)
    assert compose_complete(["prompt.system='It costs \\${5}.'"]).prompt.system == "It costs ${5}."


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "a/../../b", "''", "."])
def test_an_experiment_stays_among_the_runs(experiment, name):
    with pytest.raises(RecipeError, match=r"experiment: .* names a folder among the runs"):
        compose_complete(experiment(f"experiment: {name}"))


def test_force_deletes_nothing_but_what_a_stage_made(tiny_recipe):
    run = run_of(tiny_recipe("force=true"))
    (run.folder / "data").mkdir(parents=True)
    (run.folder / "data" / "thesis.tex").touch()
    with pytest.raises(LaunchError, match="is no run folder, and .*data is not deleted"), stage(run, "data"):
        pass
    assert (run.folder / "data" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "engine",
    [
        "actor_rollout_ref: {rollout: {engine_kwargs: {vllm: {x: {_target_: webbrowser.open, url: a}}}}}",
        "actor_rollout_ref: {actor: {_target_: webbrowser.open}}",
        "actor_rollout_ref: {rollout: {engine_kwargs: {vllm: {x: [{_target_: webbrowser.open}]}}}}",
    ],
)
def test_a_recipe_chooses_no_code_for_verl_to_run(experiment, engine):
    """verl builds what `_target_` names; Hydra blocks the worst of that (1.3.8), by name."""
    recipe = compose_complete(experiment(f"rl: {{engine: {{{engine}}}}}"))
    with pytest.raises(RecipeError, match=r"rl\.engine\..*which code verl runs"):
        render(run_of(recipe), "model", 1)


@pytest.mark.parametrize(
    "hydra",
    [
        "{callbacks: {x: {_target_: os.system, command: touch MADE}}}",
        "{job_logging: {version: 1, root: {level: INFO}, filters: {x: {'()': os.system, command: touch MADE}}}}",
    ],
)
def test_a_recipe_has_hydra_call_nothing(experiment, tmp_path, hydra):
    """Hydra 1.3.8 itself refuses what executes: callbacks and factories of loggers are a recipe's to set."""
    made = tmp_path / "made"
    given = experiment(f"hydra: {hydra.replace('MADE', str(made))}")
    done = subprocess.run([sys.executable, "-m", "launch.report", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not made.exists(), done.stderr[-500:]


@pytest.mark.parametrize(
    "text", ["rl: {steps: 2", "name: !!python/object/apply:os.system ['touch made']", "seed: 1\nseed: 2"]
)
def test_a_recipe_that_is_not_yaml_is_one_message(experiment, text):
    given = experiment(text)
    done = subprocess.run([sys.executable, "-m", "launch.report", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error") and "own.yaml" in done.stderr
    assert "Traceback" not in done.stderr

"""Asking: what is refused, before any engine starts, and how an answer looks."""

import json
from io import StringIO

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from launch.ask import app, chosen_model, shown
from launch.errors import LaunchError


@pytest.fixture
def run_folder(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    folder = tmp_path / "runs" / "demo" / "main"
    (folder / "stages").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return folder


def text(record, schema: str = "ota") -> str:
    console = Console(width=80, file=StringIO())
    console.print(shown(record, schema))
    return console.file.getvalue()


def test_a_run_gives_its_last_model(run_folder):
    with pytest.raises(LaunchError, match="no model yet"):
        chosen_model(str(run_folder), "camreasoner")
    for stage, model in (("model", "model"), ("merge", "merged")):
        (run_folder / "stages" / f"{stage}.json").write_text('{"stage": "done"}')
        recipe, path = chosen_model(str(run_folder), "camreasoner")
        assert path == str(run_folder / model) and recipe.experiment == "demo"


def test_a_checkpoint_keeps_its_runs_prompt_and_budget(run_folder):
    checkpoint = run_folder / "sft" / "checkpoint-9"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    recipe, path = chosen_model(str(checkpoint), "camreasoner")
    assert recipe.media.max_pixels == 7056 and path == str(checkpoint)


def test_any_other_model_takes_those_of_an_experiment(tmp_path):
    recipe, path = chosen_model("some/model", "camreasoner")
    assert path == recipe.model.path == "some/model" and recipe.media.max_frames == 64
    assert recipe.cluster.nodes == 1
    with pytest.raises(LaunchError, match="no such folder"):
        chosen_model(str(tmp_path / "nothing"), "camreasoner")
    with pytest.raises(LaunchError, match="neither a run folder"):
        chosen_model(str(tmp_path), "camreasoner")


def test_an_answer_is_shown_part_by_part():
    response = "<observation>It [bold]slides[/].</observation><think>So.</think><answer>Yes</answer>"
    out = text({"response": response, "option_probs": {"Yes": 0.9, "No": 0.1}})
    assert all(title in out for title in ("Observation", "Think", "Answer", "Probabilities"))
    assert "It [bold]slides[/]." in out and "Yes 90.0 %   No 10.0 %" in out


def test_a_malformed_response_is_shown_as_it_is():
    out = text({"response": "It pans."})
    assert "missing <observation>" in out and "It pans." in out


def test_a_run_of_another_schema_is_not_malformed():
    out = text({"response": "<think>So.</think><answer>Yes</answer>"}, "think_answer")
    assert "Think" in out and "Response" not in out


def test_what_cannot_be_asked_is_one_clear_message(run_folder, tmp_path):
    (run_folder / "stages" / "model.json").write_text(json.dumps({"stage": "model"}))
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    for arguments, message in (
        (["--video", str(tmp_path / "none.mp4"), "--question", "?"], "missing"),
        (["--video", str(broken), "--question", "?"], "broken.mp4"),
        (["--video", str(broken), "--question", " "], "the question is empty"),
    ):
        result = CliRunner().invoke(app, [*arguments, "--model", str(run_folder)])
        assert result.exit_code == 1 and message in " ".join(result.stderr.split()), result.stderr

"""Model cards from a run's files."""

import json
import sys

import pytest

from launch import publish
from launch.errors import LaunchError
from launch.run import run_of, stage

SCORES = {
    "n": 750,
    "balanced_accuracy": 0.838,
    "balanced_accuracy_ci": [0.803, 0.872],
    "binary_accuracy": 0.9,
    "always_no_accuracy": 0.5,
    "pair_accuracy": 0.612,
    "format_rate": 0.996,
    "malformed": 3,
    "no_option": 1,
    "failed": 0,
    "missing": 2,
    "unjudged": 0,
}


@pytest.fixture
def run(tiny_recipe):
    run = run_of(tiny_recipe())
    with stage(run, "rl"):
        pass
    for name in ("base", "sft", "rl"):
        (run.folder / "eval" / "test" / name).mkdir(parents=True)
        (run.folder / "eval" / "test" / name / "scores.json").write_text(json.dumps(SCORES))
    (run.folder / "rl").mkdir()
    (run.folder / "rl" / "metrics.jsonl").write_text("{}\n" * 32)
    run.data.mkdir()
    (run.data / "rl.jsonl").write_text("{}\n" * 1440)
    return run


def test_a_card_shows_data_budget_and_metrics_with_baselines(run):
    text = publish.card(run)
    for words in ("| rl | 1440 |", "4 frames of 7056 pixels at 2.0", "32 steps of 32 prompts", "0.838", "0.803–0.872"):
        assert words in text
    assert "a constant answer: 0.500" in text and "always No: 0.500" in text and "| 0.996 | 4 | 2 |" in text
    assert "base_model" not in text  # the tiny model is not on the hub


def test_a_published_base_is_named(run):
    recipe = run.recipe.model_copy(update={"model": run.recipe.model.model_copy(update={"path": "Qwen/Qwen2.5-VL-7B"})})
    assert "base_model: Qwen/Qwen2.5-VL-7B\n" in publish.card(type(run)(recipe, run.folder))


def test_the_hub_reads_the_cards_metrics(run):
    from huggingface_hub import ModelCard

    data = ModelCard(publish.card(run)).data
    assert data.pipeline_tag == "video-text-to-text" and data.model_name == "demo-main"
    read = {result.metric_type: result.metric_value for result in data.eval_results}
    assert read == {"balanced_accuracy": 0.838, "pair_accuracy": 0.612, "format_rate": 0.996}


def test_a_card_is_of_the_recipe_that_was_trained(run, monkeypatch, capsys):
    """What a command line forgets, or claims, is refused, and the records stay as they are."""
    for name in ("data", "model", "sft", "merge", "evaluate"):
        with stage(run, name):
            pass
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    for claimed in ("reward.format_weight=0.7", "rl.learning_rate=0.5", "model.path=Qwen/Qwen2.5-VL-7B-Instruct"):
        monkeypatch.setattr(sys, "argv", ["launch.publish", f"runs={run.recipe.runs}", "reward=camreasoner", claimed])
        with pytest.raises(SystemExit) as stopped:
            publish.main()
        assert stopped.value.code == 1 and f"cannot change: {claimed.partition('=')[0]}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    monkeypatch.setattr(sys, "argv", ["launch.publish", f"runs={run.recipe.runs}", "reward=camreasoner"])
    with pytest.raises(SystemExit):
        publish.main()
    assert not capsys.readouterr().err and "demo-main" in (run.merged / "README.md").read_text()


def test_a_run_without_evaluation_has_no_card(run):
    (run.folder / "eval" / "test" / "rl" / "scores.json").unlink()
    with pytest.raises(LaunchError, match="launch.evaluate first"):
        publish.card(run)


def test_text_from_files_cannot_become_markup():
    assert publish.plain("a|b\n<script>[x](y)") == "a\\|b \\<script\\>\\[x\\](y)"


def test_a_refused_push_is_one_message_without_the_token(run, monkeypatch):
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")

    def refuse(*_, **__):
        response = httpx.Response(401, request=httpx.Request("POST", "https://hub"))
        raise HfHubHTTPError("401 Unauthorized", response=response)

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(LaunchError, match="me/model.*401.*hf auth login") as caught:
        publish.push(run, "me/model", private=True)
    assert "hf_abc" not in str(caught.value)


def test_a_push_sends_the_merged_model_alone(run, monkeypatch):
    from huggingface_hub import HfApi

    sent = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **_: f"https://hub/{repo}")
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **given: sent.update(given))
    assert publish.push(run, "me/model", private=True) == "https://hub/me/model"
    assert sent["folder_path"] == run.merged and "*.safetensors" in sent["allow_patterns"]

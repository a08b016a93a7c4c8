import json

import pytest
import yaml

from data_tools.media import write_manifest
from launch.errors import LaunchError
from launch.run import STAGES, Run, open_run, stage


def do(run: Run, *names: str) -> list[str]:
    """Names of the stages that had to be done."""
    done = []
    for name in names:
        with stage(run, name) as needed:
            done += [name] if needed else []
    return done


def test_a_run_folder_says_what_it_is(tiny_recipe):
    run = open_run(tiny_recipe("name=first", "seed=3"))
    assert run.folder.parts[-3:] == ("runs", "demo", "first")
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text()) == run.recipe.model_dump(mode="json")
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["seed"] == 3 and manifest["packages"]["verl"] and manifest["lock"]


def test_a_stage_is_done_once(tiny_recipe):
    run = open_run(tiny_recipe())
    assert do(run, "data", "data", "model") == ["data", "model"]
    assert do(open_run(tiny_recipe()), "data", "model") == []
    record = run.record("data")
    assert record["wall_seconds"] >= 0 and record["peak_rss_gib"] > 0 and not record["upstream"]


def test_what_a_stage_does_not_hang_on_may_change(tiny_recipe):
    do(open_run(tiny_recipe()), "data", "model")
    assert do(open_run(tiny_recipe("rl.learning_rate=1e-3", "cluster.cpus=1")), "data", "model") == []


def test_other_settings_are_refused_by_name(tiny_recipe):
    do(open_run(tiny_recipe()), *STAGES[:4])
    changed = open_run(tiny_recipe("reward.format_weight=0.5", "rl.filter.enabled=true"))
    assert do(changed, "data", "sft") == []
    with pytest.raises(LaunchError, match=r"reward\.format_weight \(0\.1, now 0\.5\), rl\.filter\.enabled"):
        do(changed, "rl")
    with pytest.raises(LaunchError, match="seed"):
        do(open_run(tiny_recipe("seed=1")), "data")


def test_force_does_it_again(tiny_recipe):
    do(open_run(tiny_recipe()), "data")
    assert do(open_run(tiny_recipe("seed=1", "force=true")), "data") == ["data"]
    assert do(open_run(tiny_recipe("seed=1")), "data") == []


def test_a_stage_older_than_its_input_is_refused(tiny_recipe):
    do(open_run(tiny_recipe()), "data", "model", "sft")
    do(open_run(tiny_recipe("force=true")), "model")
    with pytest.raises(LaunchError, match="older than model"):
        do(open_run(tiny_recipe()), "sft")
    assert do(open_run(tiny_recipe("force=true")), "sft") == ["sft"]


def test_an_interrupted_stage_goes_on_with_its_settings(tiny_recipe):
    run = open_run(tiny_recipe())
    checkpoint = run.folder / "rl" / "checkpoints" / "global_step_2"
    with pytest.raises(KeyboardInterrupt), stage(run, "rl"):
        checkpoint.mkdir(parents=True)
        raise KeyboardInterrupt
    assert run.record("rl") is None
    with pytest.raises(LaunchError, match=r"begun with other settings or input: rl\.learning_rate"):
        do(open_run(tiny_recipe("rl.learning_rate=1")), "rl")
    assert do(open_run(tiny_recipe()), "rl") == ["rl"] and checkpoint.exists()
    assert not (run.folder / "stages" / "rl.started.json").exists()


def test_an_interrupted_stage_does_not_go_on_with_other_input(tiny_recipe):
    run = open_run(tiny_recipe())
    do(run, "data", "model", "sft")
    with pytest.raises(KeyboardInterrupt), stage(run, "rl"):
        (run.folder / "rl" / "checkpoints" / "global_step_2").mkdir(parents=True)
        raise KeyboardInterrupt
    do(open_run(tiny_recipe("force=true")), "data")
    with pytest.raises(LaunchError, match="begun with other settings or input: data anew"):
        do(open_run(tiny_recipe()), "rl")
    assert do(open_run(tiny_recipe("force=true")), "rl") == ["rl"] and not (run.folder / "rl").exists()


def test_a_stage_that_was_refused_takes_a_corrected_recipe(tiny_recipe, capsys):
    run = open_run(tiny_recipe("rl.rollout_batch_size=64"))
    for name in ("data", "rl"):
        left = run.folder / name / "left.jsonl"
        with pytest.raises(LaunchError), stage(run, name):
            left.parent.mkdir(parents=True)
            left.touch()
            raise LaunchError("too few prompts")
        assert do(open_run(tiny_recipe("rl.rollout_batch_size=32", "media.fps=4")), name) == [name]
        assert "begins again" in capsys.readouterr().out and not left.exists()


def test_force_leaves_what_another_run_shares(tiny_recipe):
    run, base = open_run(tiny_recipe()), open_run(tiny_recipe("name=base"))
    do(base, "data")
    (base.folder / "data").mkdir()
    (run.folder / "data").symlink_to(base.folder / "data")
    do(open_run(tiny_recipe("force=true")), "data")
    assert (base.folder / "data").is_dir() and not (run.folder / "data").is_symlink()


def test_a_missing_stage_is_named_with_its_command(tiny_recipe):
    run = open_run(tiny_recipe("name=n"))
    with pytest.raises(LaunchError, match=r"launch\.sft experiment=demo name=n"):
        run.require("sft")
    do(run, "sft")
    run.require("sft")


def test_the_checkpoint_of_an_epoch(tiny_recipe):
    run = open_run(tiny_recipe("sft.num_train_epochs=2"))
    assert run.sft_checkpoint(0) == str(run.folder / "model")
    for step in (9, 18):
        (run.folder / "sft" / f"checkpoint-{step}").mkdir(parents=True)
    assert run.sft_checkpoint(1).endswith("checkpoint-9") and run.sft_checkpoint(2).endswith("checkpoint-18")
    (run.folder / "sft" / "checkpoint-9").rmdir()
    with pytest.raises(LaunchError, match="1 checkpoints instead of"):
        run.sft_checkpoint(1)


def test_clips_of_another_budget_are_refused(tiny_recipe):
    run = open_run(tiny_recipe())
    do(run, "data")
    with pytest.raises(LaunchError, match="media.json is missing"):
        run.require("data")
    run.media_root.mkdir()
    write_manifest(run.media_root, run.recipe.budget, 1)
    run.require("data")
    with pytest.raises(LaunchError, match=r"made with: fps 2\.0, max_frames 4.*\n.*asked for: fps 4\.0, max_frames 4"):
        open_run(tiny_recipe("media.fps=4")).require("data")

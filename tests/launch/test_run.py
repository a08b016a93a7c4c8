import errno
import json
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from data_tools.check import CheckArguments
from data_tools.cli import parse
from data_tools.media.store import write_manifest
from launch.errors import LaunchError
from launch.recipe import ROOT
from launch.run import Run, run_of, stage


def do(run: Run, *names: str) -> list[str]:
    """Names of the stages that had to be done."""
    done = []
    for name in names:
        with stage(run, name) as needed:
            done += [name] if needed else []
    return done


def test_a_run_folder_says_what_it_is(tiny_recipe):
    run = run_of(tiny_recipe("name=first", "seed=3", "force=true", "publish.repo=a/b"))
    do(run, "data")
    assert run.folder.parts[-3:] == ("runs", "demo", "first")
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text()) == run.recipe.stored()
    assert not {"force", "publish"} & run.recipe.stored().keys()
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["seed"] == 3 and manifest["packages"]["verl"] and manifest["lock"]


def test_a_stage_is_done_once(tiny_recipe):
    run = run_of(tiny_recipe())
    assert do(run, "data", "data", "model") == ["data", "model"]
    assert do(run_of(tiny_recipe()), "data", "model") == []
    record = run.record("data")
    assert record["wall_seconds"] >= 0 and record["peak_rss_gib"] > 0 and not record["upstream"]


def test_what_a_stage_does_not_hang_on_may_change(tiny_recipe):
    do(run_of(tiny_recipe()), "data", "model")
    assert do(run_of(tiny_recipe("rl.learning_rate=1e-3", "cluster.cpus=1")), "data", "model") == []


def test_other_settings_are_refused_by_name(tiny_recipe):
    do(run_of(tiny_recipe()), "data", "model", "sft", "rl")
    changed = run_of(tiny_recipe("reward.format_weight=0.5", "rl.filter.enabled=true"))
    assert do(changed, "data", "sft") == []
    with pytest.raises(LaunchError, match=r"reward\.format_weight \(0\.1, now 0\.5\), rl\.filter\.enabled"):
        do(changed, "rl")
    with pytest.raises(LaunchError, match="seed"):
        do(run_of(tiny_recipe("seed=1")), "data")


def test_force_does_it_again(tiny_recipe):
    do(run_of(tiny_recipe()), "data")
    assert do(run_of(tiny_recipe("seed=1", "force=true")), "data") == ["data"]
    assert do(run_of(tiny_recipe("seed=1")), "data") == []


def test_a_stage_older_than_its_input_is_refused(tiny_recipe):
    do(run_of(tiny_recipe()), "data", "model", "sft")
    do(run_of(tiny_recipe("force=true")), "model")
    with pytest.raises(LaunchError, match="older than model"):
        do(run_of(tiny_recipe()), "sft")
    assert do(run_of(tiny_recipe("force=true")), "sft") == ["sft"]


def test_an_interrupted_stage_goes_on_with_its_settings(tiny_recipe):
    run = run_of(tiny_recipe())
    checkpoint = run.folder / "rl" / "checkpoints" / "global_step_2"
    with pytest.raises(KeyboardInterrupt), stage(run, "rl"):
        checkpoint.mkdir(parents=True)
        raise KeyboardInterrupt
    assert run.record("rl") is None
    with pytest.raises(LaunchError, match=r"started with other settings or input: rl\.learning_rate"):
        do(run_of(tiny_recipe("rl.learning_rate=1")), "rl")
    assert do(run_of(tiny_recipe()), "rl") == ["rl"] and checkpoint.exists()
    assert not (run.folder / "stages" / "rl.started.json").exists()


def test_a_looser_limit_is_no_other_setting(tiny_recipe, capsys):
    """What was left out stays left out, and the manifest says which limits were loosened under way."""
    run = run_of(tiny_recipe())
    do(run, "data", "model", "sft")
    with pytest.raises(KeyboardInterrupt), stage(run, "rl"):
        (run.folder / "rl" / "checkpoints" / "global_step_2").mkdir(parents=True)
        raise KeyboardInterrupt
    looser = ["rl.max_prompt_length=300", "sft.cutoff_len=1024", "data.max_quarantined=0.1"]
    write_manifest(run.media_root, run.recipe.budget, 1)
    run_of(tiny_recipe(*looser)).require("data", "sft")
    with pytest.raises(LaunchError, match=r"other settings or input: rl\.max_prompt_length \(256, now 200\)"):
        do(run_of(tiny_recipe("rl.max_prompt_length=200")), "rl")
    capsys.readouterr()
    assert do(run_of(tiny_recipe(*looser)), "data", "sft", "rl") == ["rl"]
    said = " ".join(capsys.readouterr().out.split())
    assert "sft.cutoff_len (512, now 1024): what it left out stays left out; force=true takes it in" in said
    assert "goes on with rl.max_prompt_length (256, now 300)" in said
    manifest = json.loads(run.paths.manifest.read_text())
    assert manifest["loosened"] == ["rl: rl.max_prompt_length (256, now 300)"]
    assert run.record("rl")["settings"]["rl"]["max_prompt_length"] == 300
    with pytest.raises(LaunchError, match=r"'sft' .* cannot change: sft\.cutoff_len \(512, now 256\)"):
        run_of(tiny_recipe("sft.cutoff_len=256")).require("sft")
    run_of(tiny_recipe("sft.cutoff_len=256")).require("data")  # stage sft holds it


def interrupted(run: Run, name: str, work: str) -> None:
    with pytest.raises(KeyboardInterrupt), stage(run, name):
        (run.folder / work).mkdir(parents=True)
        raise KeyboardInterrupt


GPUS = ("cluster=node_8gpu", "rl.micro_batch_size_per_gpu=1")


def test_a_checkpoint_goes_on_with_as_many_gpus_only(tiny_recipe):
    begun = run_of(tiny_recipe(*GPUS))
    interrupted(begun, "rl", "rl/checkpoints/global_step_2")
    with pytest.raises(LaunchError, match=r"cluster\.ranks \(8, now 4\).*go on with as many only"):
        do(run_of(tiny_recipe(*GPUS, "cluster.gpus_per_node=4")), "rl")
    split = tiny_recipe(*GPUS, "cluster.nodes=2", "cluster.gpus_per_node=4", "cluster.address=auto")
    assert do(run_of(split), "rl") == ["rl"]
    assert do(run_of(tiny_recipe(*GPUS, "cluster.gpus_per_node=1")), "rl") == []  # what is done serves any machine
    interrupted(begun, "sft", "sft/checkpoint-9")
    with pytest.raises(LaunchError, match=r"cluster\.ranks \(8, now 1\)"):
        do(run_of(tiny_recipe(*GPUS, "cluster.gpus_per_node=1")), "sft")
    two_nodes = ["cluster=ray_cluster", "rl.micro_batch_size_per_gpu=1", "cluster.sft_nodes=2"]
    with pytest.raises(LaunchError, match=r"cluster\.ranks \(8, now 16\).*go on with as many only"):
        do(run_of(tiny_recipe(*two_nodes)), "sft")
    assert do(run_of(tiny_recipe(*two_nodes, "cluster.gpus_per_node=4")), "sft") == ["sft"]


def test_a_training_that_is_done_goes_on_with_more_steps_and_epochs(tiny_recipe, capsys):
    """It keeps its checkpoints and its cost; what was made of it is made again, and less is refused."""
    run = run_of(tiny_recipe("rl.steps=4"))
    do(run, "data", "model", "sft", "rl", "merge")
    checkpoint = run.folder / "rl" / "checkpoints" / "global_step_4"
    checkpoint.mkdir(parents=True)
    record = run.record("rl") | {"wall_seconds": 500.0}
    run.paths.record("rl").write_text(json.dumps(record))
    longer = run_of(tiny_recipe("rl.steps=8"))
    with pytest.raises(LaunchError, match=r"'rl' .* cannot change: rl\.steps \(4, now 8\)"):
        longer.require("rl")
    with pytest.raises(LaunchError, match=r"rl\.learning_rate"):
        do(run_of(tiny_recipe("rl.steps=8", "rl.learning_rate=1")), "rl")
    with pytest.raises(LaunchError, match=r"cluster\.ranks \(1, now 2\)"):
        do(run_of(tiny_recipe("rl.steps=8", "cluster.gpus_per_node=2")), "rl")
    assert run.record("rl") == record
    capsys.readouterr()
    assert do(longer, "rl", "merge", "rl", "merge") == ["rl", "merge"] and checkpoint.exists()
    assert "goes on with rl.steps (4, now 8)" in capsys.readouterr().out
    assert longer.record("rl")["wall_seconds"] >= 500 and longer.record("rl")["started"] == record["started"]
    assert json.loads(run.paths.manifest.read_text())["loosened"] == ["rl: rl.steps (4, now 8)"]
    with pytest.raises(LaunchError, match=r"done with other settings: rl\.steps \(8, now 4\)"):
        do(run, "rl")
    more = run_of(tiny_recipe("rl.steps=8", "sft.num_train_epochs=2"))
    assert do(more, "sft") == ["sft"]
    with pytest.raises(LaunchError, match="'rl' .* is older than sft"):
        do(more, "rl")


def test_a_training_that_goes_on_and_is_interrupted_goes_on_again(tiny_recipe):
    do(run_of(tiny_recipe("rl.steps=4")), "rl")
    longer = run_of(tiny_recipe("rl.steps=8"))
    interrupted(longer, "rl", "rl/checkpoints/global_step_4")
    assert longer.record("rl") is None
    assert do(run_of(tiny_recipe("rl.steps=9")), "rl") == ["rl"]
    assert (longer.folder / "rl" / "checkpoints" / "global_step_4").exists()


def test_a_training_of_another_run_is_not_trained_on(tiny_recipe):
    run, base = run_of(tiny_recipe()), run_of(tiny_recipe("name=base"))
    do(run, "sft")
    (base.folder / "sft").mkdir(parents=True)
    (run.folder / "sft").symlink_to(base.folder / "sft")
    with pytest.raises(LaunchError, match="is another run's .shared.json names it.: train that one on"):
        do(run_of(tiny_recipe("sft.num_train_epochs=2")), "sft")


def test_an_interrupted_stage_does_not_go_on_with_other_input(tiny_recipe):
    run = run_of(tiny_recipe())
    do(run, "data", "model", "sft")
    with pytest.raises(KeyboardInterrupt), stage(run, "rl"):
        (run.folder / "rl" / "checkpoints" / "global_step_2").mkdir(parents=True)
        raise KeyboardInterrupt
    do(run_of(tiny_recipe("force=true")), "data")
    with pytest.raises(LaunchError, match="started with other settings or input: data was run again"):
        do(run_of(tiny_recipe()), "rl")
    assert do(run_of(tiny_recipe("force=true")), "rl") == ["rl"] and not (run.folder / "rl").exists()


def test_a_stage_that_was_refused_takes_a_corrected_recipe(tiny_recipe, capsys):
    for name in ("data", "rl"):
        run = run_of(tiny_recipe("rl.rollout_batch_size=64", f"name={name}"))
        left = run.folder / name / "left.jsonl"
        with pytest.raises(LaunchError), stage(run, name):
            left.parent.mkdir(parents=True)
            left.touch()
            raise LaunchError("too few prompts")
        other = ("rl.rollout_batch_size=32", "media.fps=4", f"name={name}")
        assert do(run_of(tiny_recipe(*other)), name) == [name]
        assert "starts again" in capsys.readouterr().out and not left.exists()


def test_force_leaves_what_another_run_shares(tiny_recipe):
    run, base = run_of(tiny_recipe()), run_of(tiny_recipe("name=base"))
    do(base, "data")
    (base.folder / "data").mkdir()
    run.folder.mkdir(parents=True)
    (run.folder / "data").symlink_to(base.folder / "data")
    do(run_of(tiny_recipe("force=true")), "data")
    assert (base.folder / "data").is_dir() and not (run.folder / "data").is_symlink()


def test_a_missing_stage_is_named_with_its_command(tiny_recipe):
    run = run_of(tiny_recipe("name=n"))
    with pytest.raises(LaunchError, match=r"launch\.sft experiment=demo name=n"):
        run.require("sft")
    given = ("name=n", "runs='/a b'", "rl.steps=2")
    with pytest.raises(LaunchError, match=r"python -m launch\.sft name=n .*/a b.* rl\.steps=2"):
        run_of(run.recipe, given).require("sft")
    do(run, "sft")
    run.require("sft")


def test_the_checkpoint_of_an_epoch(tiny_recipe):
    run = run_of(tiny_recipe("sft.num_train_epochs=2"))
    assert run.sft_checkpoint(0) == str(run.folder / "model")
    for step in (9, 18):
        (run.folder / "sft" / f"checkpoint-{step}").mkdir(parents=True)
    assert run.sft_checkpoint(1).endswith("checkpoint-9") and run.sft_checkpoint(2).endswith("checkpoint-18")
    (run.folder / "sft" / "checkpoint-9").rmdir()
    with pytest.raises(LaunchError, match="1 checkpoints instead of"):
        run.sft_checkpoint(1)


def test_clips_of_another_budget_are_refused(tiny_recipe):
    run = run_of(tiny_recipe())
    do(run, "data")
    with pytest.raises(LaunchError, match="media.json is missing"):
        run.require("data")
    run.media_root.mkdir(exist_ok=True)
    write_manifest(run.media_root, run.recipe.budget, 1)
    run.require("data")
    (run.media_root / "media.json").write_text("{")
    with pytest.raises(LaunchError, match="media.json was cut or edited"):
        run.require("data")
    write_manifest(run.media_root, replace(run.recipe.budget, fps=4), 1)
    with pytest.raises(LaunchError, match=r"made with: fps 4, max_frames 4.*\n.*asked for: fps 2\.0, max_frames 4"):
        run.require("data")


def test_a_later_stage_refuses_other_settings_of_an_earlier_one_by_name(tiny_recipe):
    run = run_of(tiny_recipe())
    do(run, "data", "model", "sft")
    run.media_root.mkdir(exist_ok=True)
    write_manifest(run.media_root, run.recipe.budget, 1)
    run.require("data", "model", "sft")
    for override, key in (
        ("data.rendered.test.clips=7", r"data\.rendered\.test\.clips"),
        ("media.fps=4", r"media\.fps"),
    ):
        with pytest.raises(LaunchError, match=rf"'data' .* cannot change: {key}"):
            run_of(tiny_recipe(override)).require("data")
    with pytest.raises(LaunchError, match=r"'sft' .* cannot change: sft\.learning_rate"):
        run_of(tiny_recipe("sft.learning_rate=1")).require("sft")
    run_of(tiny_recipe("cluster.device=cuda")).require("sft")  # another machine may go on with it


def test_evaluation_completes_what_it_has(tiny_recipe):
    run = run_of(tiny_recipe("eval.models=[base]"))
    do(run, "data", "model", "evaluate")
    kept = run.paths.predictions("test", "base")
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    more = run_of(tiny_recipe("eval.models=[base]", "eval.max_tokens=99"))
    assert do(more, "evaluate") == ["evaluate"] and kept.exists()
    assert do(more, "evaluate") == []
    assert do(run_of(tiny_recipe("eval.models=[base]", "force=true")), "evaluate") == ["evaluate"]
    assert not kept.exists()


def contents(run: Run) -> dict[str, tuple[bytes, int]]:
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_stage_that_is_done_or_refused_writes_nothing(tiny_recipe):
    run = run_of(tiny_recipe("reward.format_weight=0.3"))
    do(run, "data", "rl")
    before = contents(run)
    assert do(run_of(tiny_recipe("reward.format_weight=0.3", "cluster.cpus=1")), "data", "rl") == []
    with pytest.raises(LaunchError, match="other settings"):
        do(run_of(tiny_recipe()), "rl")
    with pytest.raises(LaunchError, match="not done"):
        run_of(tiny_recipe()).require("sft")
    assert contents(run) == before


def test_a_stage_that_begins_holds_to_the_recipe_of_the_others(tiny_recipe):
    """recipe.yaml would otherwise say of a finished stage what the last command line forgot."""
    run = run_of(tiny_recipe("rl.steps=2"))
    do(run, "data", "model", "sft", "rl", "merge")
    before = contents(run)
    for name in ("sets", "evaluate"):
        with pytest.raises(LaunchError, match=r"'rl' .* cannot change: rl\.steps \(2, now 32\)"):
            do(run_of(tiny_recipe()), name)
    assert contents(run) == before
    assert do(run_of(tiny_recipe("rl.steps=2", "eval.max_tokens=9")), "evaluate") == ["evaluate"]
    assert do(run_of(tiny_recipe("rl.steps=3", "force=true")), "rl") == ["rl"]  # with what builds on it
    assert run.record("rl")["manifest"]["packages"]["verl"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "everything is missing"),
        ("{}", "started, settings"),
        ('{"format": 3, "started": "t", "settings": {}}', "upstream, wall_seconds"),
    ],
)
def test_a_record_that_was_cut_or_edited_is_named(tiny_recipe, content, said):
    run = run_of(tiny_recipe())
    do(run, "data")
    run.paths.record("data").write_text(content)
    for refused in (lambda: do(run, "data"), lambda: run.require("data"), lambda: do(run, "model")):
        with pytest.raises(LaunchError, match=rf"data\.json was cut or edited.*{said}.*force=true"):
            refused()
    assert do(run_of(tiny_recipe("force=true")), "data") == ["data"]


def test_done_looks_at_the_output(tiny_recipe):
    run = run_of(tiny_recipe())
    made = run.paths.samples("rl")
    with stage(run, "data"):
        made.parent.mkdir(parents=True)
        made.write_text("{}\n{}\n")
        write_manifest(run.media_root, run.recipe.budget, 1)
    run.require("data")
    made.write_text("{}\n")
    for refused in (lambda: do(run, "data"), lambda: run.require("data")):
        with pytest.raises(LaunchError, match=r"not as it left them: rl\.jsonl \(3 of 6 bytes\)\. .*force=true"):
            refused()
    made.unlink()
    with pytest.raises(LaunchError, match=r"rl\.jsonl \(missing\)"):
        do(run, "data")
    assert do(run_of(tiny_recipe("force=true")), "data") == ["data"]


@pytest.mark.parametrize("format", [None, 1, 99])
def test_a_record_of_another_version_is_refused(tiny_recipe, format):
    run = run_of(tiny_recipe())
    do(run, "data")
    record = run.record("data") | {"format": format}
    if format is None:
        del record["format"]
    run.paths.record("data").write_text(json.dumps(record))
    for refused in (lambda: do(run, "data"), lambda: run.require("data")):
        with pytest.raises(LaunchError, match=r"another version.*format .*name=\.\.\."):
            refused()
    assert do(run_of(tiny_recipe("force=true")), "data") == ["data"]


def test_a_home_folder_is_expanded_in_the_model_s_path(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_of(tiny_recipe("model.path='~/qwen'")).base_model == str(tmp_path / "qwen")


def test_a_home_folder_is_expanded_in_every_key_once_it_is_read(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    files = "data.rendered=null data.files={sft:null,rl:'~/rl.jsonl',test:null} data.media_root='~/videos'".split()
    recipe = tiny_recipe(*files, "data.links_into=['~/blobs']", "eval.models={mine: '~/m'}")
    assert "~" not in json.dumps(recipe.model_dump(mode="json"))
    assert recipe.data.files["rl"] == f"{tmp_path}/rl.jsonl" and recipe.data.links_into == [f"{tmp_path}/blobs"]
    asked = parse(CheckArguments, ["~/a.jsonl", "out=~/out", "links_into=[~/b]", "model=~/m"])
    assert str(asked.files[0]) == f"{tmp_path}/a.jsonl" and str(asked.links_into[0]) == f"{tmp_path}/b"
    assert (str(asked.out), asked.model) == (f"{tmp_path}/out", f"{tmp_path}/m")


def test_too_few_prompts_are_refused_before_anything_is_written(tiny_recipe, monkeypatch, capsys):
    from data_tools.sample import Sample, write_samples
    from launch import rl

    run = run_of(tiny_recipe("rl.start_epoch=0"))
    do(run, "data", "model")
    write_manifest(run.media_root, run.recipe.budget, 1)
    text = {"question": "Does the camera pan?", "options": ["Yes", "No"], "answer": "A", "task": "binary"}
    write_samples(run.paths.samples("rl"), [Sample(id="a", video="a.mp4", source="mine", split="rl", **text)])
    before = contents(run)
    monkeypatch.setattr(
        sys,
        "argv",
        ["launch.rl", f"runs={run.recipe.runs}", "reward=camreasoner", "rl.start_epoch=0", "rl.kl_coef=0.5"],
    )
    with pytest.raises(SystemExit) as stopped:
        rl.main()
    assert stopped.value.code == 1 and "do not fill rl.rollout_batch_size" in capsys.readouterr().err
    assert contents(run) == before


def test_data_of_another_prompt_or_schema_is_refused_by_the_later_stages(tiny_recipe):
    def run(*overrides):
        return run_of(tiny_recipe("reward=videochat_r1", *overrides))

    made = run()
    do(made, "data")
    made.data.mkdir()
    write_manifest(made.data, made.recipe.budget, 0)
    made.require("data")
    run("rl.learning_rate=1").require("data")
    with pytest.raises(LaunchError, match="schemas.grounded_qa .'think_answer_glue', now 'answer_glue'.*force=true"):
        run("reward.prompt=direct").require("data")
    with pytest.raises(LaunchError, match="prompt.system"):
        run("prompt.system=Look.").require("data")


HOLDER = """
import sys, time
from pathlib import Path
from launch.run import owned
with owned(Path(sys.argv[1]), "rl"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_has_one_owner(tiny_recipe):
    """The second is refused by the name of the first, and touches nothing; a killed owner holds nothing."""
    run = run_of(tiny_recipe())
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.paths.lock)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LaunchError, match=rf"in use: stage 'rl' runs as process {holder.pid} on {platform.node()}"):
            do(run, "data")
        assert [path.name for path in run.folder.iterdir()] == ["lock"]
    finally:
        holder.kill()
        holder.wait()
    assert do(run, "data") == ["data"]
    assert run.paths.lock.read_text() == ""


def test_a_file_system_without_locks_is_named_and_used(tiny_recipe, monkeypatch, capsys):
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("launch.run.fcntl.flock", unknown)
    assert do(run_of(tiny_recipe()), "data") == ["data"]
    assert "cannot be locked" in " ".join(capsys.readouterr().out.split())

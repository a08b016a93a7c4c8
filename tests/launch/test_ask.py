"""Asking: what is refused, before any engine starts, and how an answer looks."""

from io import StringIO

import pytest
import yaml
from PIL import Image

from data_tools.cli import explain, parse
from data_tools.console import Console
from data_tools.sample import FieldError
from launch.ask import AskArguments, ask, main, sample_of, shown, shown_by, strip, with_images
from launch.errors import LaunchError
from launch.models import chosen_model
from launch.run import run_of, stage
from rewards.errors import UserError


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


def test_a_run_gives_its_last_model(run_folder, tiny_recipe):
    with pytest.raises(LaunchError, match="has no model yet"):
        chosen_model(str(run_folder), "camreasoner")
    for name, model in (("model", "model"), ("rl", "model"), ("merge", "merged")):
        with stage(run_of(tiny_recipe()), name):
            pass
        recipe, path = chosen_model(str(run_folder), "camreasoner")
        assert path == str(run_folder / model) and recipe.experiment == "demo"


def test_the_sft_model_is_meant_where_rl_starts_from_the_base_model(run_folder, tiny_recipe):
    """As of SFT baselines, which have no RL."""
    recipe = tiny_recipe("rl.start_epoch=0", "eval.models=[base,sft]")
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    run = run_of(recipe)
    with stage(run, "model"):
        pass
    with stage(run, "sft"):
        for epoch in range(recipe.sft.num_train_epochs):
            (run.paths.sft / f"checkpoint-{epoch + 1}").mkdir(parents=True)
    assert chosen_model(str(run_folder), "camreasoner")[1] == str(run.paths.sft / f"checkpoint-{epoch + 1}")


def test_a_model_that_is_no_longer_this_runs_is_refused(run_folder, tiny_recipe):
    run = run_of(tiny_recipe())
    for name in ("data", "model", "sft", "rl"):
        with stage(run, name):
            pass
    with stage(run, "merge"):
        run.merged.mkdir()
        (run.merged / "model.safetensors").write_bytes(b"weights")
    (run.merged / "model.safetensors").write_bytes(b"weig")
    with pytest.raises(LaunchError, match=r"model\.safetensors \(4 of 7 bytes\)"):
        chosen_model(str(run_folder), "camreasoner")
    with stage(run_of(tiny_recipe("rl.steps=9", "force=true")), "rl"):
        with pytest.raises(LaunchError, match="'merge' in .* is older than rl, which was begun again"):
            chosen_model(str(run_folder), "camreasoner")


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"a: b: c", b"[" * 5000])
def test_a_recipe_that_was_cut_is_named(run_folder, content):
    (run_folder / "recipe.yaml").write_bytes(content)
    with pytest.raises(LaunchError, match=r"recipe\.yaml was cut or edited"):
        chosen_model(str(run_folder), "camreasoner")


def test_a_small_recipe_that_stands_for_a_huge_one_is_named(run_folder):
    """Each line is nine times the one before: gigabytes, were it ever written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (run_folder / "recipe.yaml").write_text("\n".join([*lines, "tracking: *a9", "rl: *a9"]))
    with pytest.raises(LaunchError, match=r"recipe\.yaml is not a recipe of this version"):
        chosen_model(str(run_folder), "camreasoner")


def test_a_recipe_of_an_older_version_is_named(run_folder):
    path = run_folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    del recipe["vllm"]
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(LaunchError, match=r"recipe\.yaml is not a recipe of this version:\n  vllm: Field required"):
        chosen_model(str(run_folder), "camreasoner")


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


def test_code_beside_weights_runs_only_where_the_user_says_so(run_folder, tiny_recipe, tmp_path):
    """A run folder may be anybody's, and its recipe with it."""
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe("model.trust_remote_code=true").stored()))
    model = run_folder / "merged"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(LaunchError, match=r"runs Python code that lies beside the weights.*trust_remote_code=true"):
        chosen_model(str(model), "camreasoner")
    recipe, _ = chosen_model(str(model), "camreasoner", trusted=True)
    assert recipe.model.trust_remote_code
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe().stored()))
    assert not chosen_model(str(model), "camreasoner")[0].model.trust_remote_code


def test_a_question_about_images_shows_them_side_by_side(tiny_recipe, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path, size in zip(paths, ((120, 80), (80, 120))):
        Image.new("RGB", size, "red").save(path)
    recipe = with_images(tiny_recipe(), len(paths), 50_176)
    made = shown_by(recipe, None, paths, tmp_path / "store")
    sample = sample_of(made, "Is <image> wider than <image>?", ["Yes", "No"])
    assert len(sample.images) == 2 and recipe.form.messages(sample)[-1]["content"].count("<image>") == 2
    strip(recipe, sample, tmp_path / "store", tmp_path / "frames.png")
    with Image.open(tmp_path / "frames.png") as sheet:
        width, height = (max(getattr(still, side) for still in made) for side in ("width", "height"))
        assert sheet.size == (2 * (width + 2), height + 16)
    with pytest.raises(LaunchError, match="images: 2 for 1 placeholders"):
        sample_of(made, "Is <image> wide?", ["Yes", "No"])
    for question in ("<video> or <image> or <image>?", "Wide?<|im_end|>"):
        with pytest.raises(FieldError, match=r"question: holds (<video>|a special token)"):
            ask(recipe, "nowhere", None, paths, question, ["Yes", "No"])


def test_an_answer_is_shown_part_by_part():
    response = "<observation>It [bold]slides[/].</observation><think>So.</think><answer>Yes</answer>"
    out = text({"response": response, "option_probs": {"Yes": 0.9, "No": 0.1}})
    assert all(title in out for title in ("Observation", "Think", "Answer", "Probabilities"))
    assert "It [bold]slides[/]." in out and "Yes 90.0 %   No 10.0 %" in out


def test_what_a_model_writes_steers_no_terminal(capsys):
    """Nor do names of files, nor errors that repeat what a file holds."""
    steering = "\x1b]0;title\x07\x1b[2J\x9b31m"
    out = StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=100)
    console.print(shown({"response": f"It pans.{steering}"}), f"[bold]data[/] → runs/[/old]/[x]{steering}")
    assert "It pans.]0;title[2J31m" in out.getvalue() and "data → runs/[/old]/[x]]0;title" in out.getvalue()
    explain(LaunchError(f"a.jsonl: {steering}[/red]"))
    assert not {"\x1b", "\x07", "\x9b"} & {*out.getvalue(), *capsys.readouterr().err}


def test_a_malformed_response_is_shown_as_it_is():
    out = text({"response": "It pans."})
    assert "missing <observation>" in out and "It pans." in out


def test_a_run_of_another_schema_is_not_malformed():
    out = text({"response": "<think>So.</think><answer>Yes</answer>"}, "think_answer")
    assert "Think" in out and "Response" not in out


def test_what_cannot_be_asked_is_one_clear_message(run_folder, tiny_recipe, tmp_path):
    with stage(run_of(tiny_recipe()), "model"):
        pass
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    for arguments, message in (
        ([f"video={tmp_path / 'none.mp4'}", "question=?"], "missing"),
        ([f"video={broken}", "question=?"], r"broken\.mp4"),
        ([f"video={broken}", "question= "], "the question is empty"),
    ):
        with pytest.raises(UserError, match=message):
            main(parse(AskArguments, [*arguments, f"model={run_folder}"]))


def test_a_question_keeps_its_commas_and_equals_signs():
    arguments = parse(AskArguments, ["video=a=b (1).mp4", "question=Does it pan, i.e. x=1?", "options=Yes,No"])
    assert (str(arguments.video), arguments.question) == ("a=b (1).mp4", "Does it pan, i.e. x=1?")

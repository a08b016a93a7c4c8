import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from data_tools.prompt import user_text
from data_tools.sample import Sample
from launch.compose import read_recipe
from launch.recipe import ROOT, Recipe, RecipeError
from launch.stages import needs

EXPERIMENTS = sorted(path.stem for path in (ROOT / "recipes" / "experiment").glob("*.yaml"))
DATA = ["data.media_root=/m", "data.files.sft=s", "data.files.rl=r", "data.files.test=t"]
PUBLISHED = ["data.media_root=/m", "data.labels=/l", "eval.root=/b"]
LEFT_TO_THE_USER = {"camreasoner_authors": PUBLISHED, "camreasoner_released": ["eval.root=/b"]}
LEFT_TO_THE_USER |= {
    "camreasoner": DATA,
    "camreasoner_crpo": DATA,
    "videochat_r1": DATA,
    "videop2r": [*DATA, "judge.model=m"],
}


def recipe(*overrides: str) -> Recipe:
    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        return read_recipe(compose("config", list(overrides)))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    composed = recipe(f"experiment={experiment}", *LEFT_TO_THE_USER.get(experiment, []))
    assert composed.experiment == experiment
    assert composed.rl.rollout_batch_size % composed.rl.global_batch_size == 0


@pytest.mark.parametrize("experiment", ["demo", "demo_videop2r", "camreasoner", "videop2r", "videochat_r1"])
def test_a_size_sets_all_batches_so_that_they_fit_each_other(experiment):
    on_a_laptop = ["model=tiny", "vllm=tiny", "cluster=laptop_cpu", "sft.deepspeed=null"]
    given = [f"experiment={experiment}", *LEFT_TO_THE_USER.get(experiment, []), *on_a_laptop]
    whole, full, small, tiny = (recipe(*given, *size) for size in ([], ["size=full"], ["size=small"], ["size=tiny"]))
    assert full == whole
    assert (tiny.rl.steps, tiny.rl.rollout_batch_size, tiny.sft.num_train_epochs) == (2, 8, 1)
    assert (small.rl.steps, small.rl.rollout_batch_size) == (None, 16)
    assert small.rl.filter == whole.rl.filter and small.sft.num_train_epochs == whole.sft.num_train_epochs
    for each in (tiny, small):
        assert (each.reward, each.advantage, each.media, each.prompt) == (
            whole.reward,
            whole.advantage,
            whole.media,
            whole.prompt,
        )
    assert recipe(*given, "size=tiny", "rl.steps=4").rl.steps == 4


def test_the_authors_regime_is_what_their_code_does():
    theirs = recipe("experiment=camreasoner_authors", *PUBLISHED)
    assert (theirs.media.fps, theirs.media.max_pixels, theirs.eval.max_tokens) == (1.0, 1048576, 8192)
    assert theirs.media.as_images and all(asked.media is None for asked in theirs.eval.sets.values())
    assert theirs.budget.TOGETHER == 1 and theirs.media.most_images == 12
    sft = theirs.data.media["camreasoner_sft"]
    assert (sft.fps, sft.max_pixels, sft.as_images) == (2.0, 16384, False)
    asked = theirs.eval.sets["vqa_published"]
    assert asked.benchmark == "camreasoner_vqa" and "Follow the format specified" in str(theirs.prompt)
    assert asked.prompt.instruction("ota", "choice").endswith("Example:\n<answer>A</answer>")
    released = recipe("experiment=camreasoner_released", "eval.root=/b")
    assert released.media == theirs.media and released.models["released"] == "LaurentWu/CamReasoner-7B"
    assert needs("evaluate", released) == ["sets"]  # nothing is trained


def test_videop2r_s_benchmarks_are_asked_at_twice_the_frames_and_pixels_of_its_training():
    theirs = recipe("experiment=videop2r", "eval=videop2r_published", "eval.root=/b", *DATA, "judge.model=m")
    asked = [one for one in theirs.eval.sets.values() if one]
    assert len(asked) == 7 and (theirs.media.max_frames, theirs.media.max_pixels) == (16, 128 * 28 * 28)
    assert {(one.media.max_frames, one.media.max_pixels) for one in asked if one.media} == {(32, 256 * 28 * 28)}
    assert all(one.media for one in asked)


def test_videochat_r1_s_questions_about_quality_list_their_options_once():
    prompt = recipe("experiment=videochat_r1", *DATA, "prompt=videochat_r1_published").prompt
    options = ["low quality", "high quality"]
    fields = {"question": f"Is it fine? Choice one answer from {options}.", "options": options, "answer": "B"}
    asked = Sample(id="a", video="a.mp4", task="quality", source="vidtab_qa", split="rl", **fields)
    assert user_text(asked, prompt, "think_answer").count("low quality") == 1


def test_camreasoner_is_the_paper_s():
    paper = recipe("experiment=camreasoner", *DATA)
    assert (paper.sft.learning_rate, paper.sft.lr_scheduler_type) == (1e-5, "cosine")
    assert (paper.rl.learning_rate, paper.rl.rollout_batch_size, paper.rl.global_batch_size) == (2e-6, 128, 32)
    assert (paper.rl.group_size, paper.rl.start_epoch, paper.rl.kl_coef) == (8, 1, 0)
    assert paper.reward.settings["format_weight"] == 0.1 and paper.advantage.name == "ema_grpo"
    assert (paper.media.fps, paper.media.max_frames, paper.media.max_pixels) == (1, 64, 262144)
    assert paper.model.dtype == "bfloat16" and paper.rl.filter.enabled and paper.rl.filter.metric == "accuracy"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("sft.num_train_epochs=three", "sft.num_train_epochs"),
        ("rl.learning_rate=0", "rl.learning_rate"),
        ("rl.filter.enabled=perhaps", "rl.filter.enabled"),
        ("tracking=wandb", r"tracking: Input should be a valid list: \[wandb\]"),
        ("eval.models=rl", "eval.models: Input should be a valid dictionary: {name: rl}"),
        ("+sft.learning_rat=1", "sft.learning_rat"),  # "+" takes Hydra's own check off
        ("rl.global_batch_size=31", "global_batch_size 31"),
        ("rl.start_epoch=9", "rl.start_epoch 9"),
        ("name=a/b", "name: 'a/b' names a folder: take letters"),
        (f"name={'x' * 300}", "at most 200"),
        ("seed=4294967296", "seed"),
        ("rl.learning_rate=inf", "rl.learning_rate: Input should be a finite number"),
        ("rl.kl_coef=nan", "rl.kl_coef: Input should be a finite number"),
        ("model.warm_up=null", "the tiny model needs model.warm_up"),
        ("model.warm_up.steps=0", "model.warm_up.steps"),
        ("cluster.device=tpu", "cluster.device"),
        ("data.rendered=null", "data"),
        ("name=${nowhere}", "name"),
        ("runs=???", "runs"),
    ],
)
def test_a_wrong_recipe_names_the_key(override, named):
    with pytest.raises(RecipeError, match=named.replace(".", r"\.")):
        recipe(override)


def test_all_that_is_left_to_the_user_is_named_at_once():
    with pytest.raises(RecipeError) as error:
        recipe("experiment=camreasoner", "data.files.rl=r")
    assert all(key in str(error.value) for key in ("data.media_root=", "data.files.sft=", "data.files.test="))
    assert "data.files.rl" not in str(error.value)


def test_an_unknown_key_is_refused():
    with pytest.raises(HydraException, match="learning_rat"):
        recipe("sft.learning_rat=1")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["launch.rl", "experiment=camreasoner"], "data.media_root"), (["launch.rl", "rl.stepz=3"], "rl.stepz")],
)
def test_the_command_line_fails_in_one_message(arguments, named):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and named in done.stderr
    assert "Traceback" not in done.stderr

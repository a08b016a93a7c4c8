"""EasyR1's rendering: by its field names, and where CAMREASONER_EASYR1 names a checkout, by EasyR1 itself."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.exports import video_item
from data_tools.media.normalise import Clip
from data_tools.prompt import Prompt, messages
from data_tools.rendered import tiny_model
from data_tools.rendered.questions import demo_texts
from data_tools.rendered.scene import draw_scene, draw_track, render_frames, write_clip
from data_tools.sample import Sample, write_samples
from launch.engines.easyr1 import config as easyr1
from launch.recipe import RecipeError
from launch.run import run_of
from rewards.scorer import Scorer

pytestmark = pytest.mark.e2e

GOOD = "<observation>It pans.</observation><think>So.</think><answer>B</answer>"
GPU = ("cluster=node_8gpu", "advantage=grpo", "rl.global_batch_size=32", "rl.micro_batch_size_per_gpu=1")
# Field names of EasyR1 0.3.3, b44b311, verl/trainer/config.py and verl/workers/*/config.py: those that we set.
FIELDS = {
    "data": "train_files val_files prompt_key answer_key video_key video_fps max_prompt_length max_response_length "
    "rollout_batch_size val_batch_size seed min_pixels max_pixels",
    "algorithm": "adv_estimator disable_kl use_kl_loss kl_penalty kl_coef online_filtering filter_key filter_low "
    "filter_high",
    "worker": "actor rollout ref reward",
    "worker.actor": "global_batch_size micro_batch_size_per_device_for_update "
    "micro_batch_size_per_device_for_experience max_grad_norm clip_ratio_low clip_ratio_high clip_ratio_dual "
    "loss_avg_mode model optim offload",
    "worker.actor.model": "model_path trust_remote_code freeze_vision_tower",
    "worker.actor.optim": "lr weight_decay lr_scheduler_type",
    "worker.actor.offload": "offload_params offload_optimizer",
    "worker.rollout": "n temperature top_p seed gpu_memory_utilization enforce_eager tensor_parallel_size "
    "max_model_len max_num_batched_tokens",
    "worker.ref": "offload",
    "worker.ref.offload": "offload_params",
    "worker.reward": "reward_function reward_function_kwargs",
    "trainer": "total_epochs max_steps project_name experiment_name logger nnodes n_gpus_per_node max_try_make_batch "
    "val_freq val_before_train save_freq save_limit save_checkpoint_path",
}


def rendered(tiny_recipe, *overrides: str) -> dict:
    return easyr1.render(run_of(tiny_recipe(*GPU, *overrides)), "model")


def test_every_key_is_one_that_easyr1_has(tiny_recipe):
    config = rendered(tiny_recipe)
    assert set(config) == {"data", "algorithm", "worker", "trainer"}
    for path, names in FIELDS.items():
        part = config
        for key in path.split("."):
            part = part[key]
        assert set(part) <= set(names.split()), path


def test_the_recipe_arrives(tiny_recipe):
    config = rendered(
        tiny_recipe,
        "rl.kl_coef=0.04",
        "rl.filter.enabled=true",
        "rl.filter.metric=score",
        *("++rl.filter.low=0.1", "++rl.filter.high=0.9", "++rl.filter.max_rounds=7"),
        "tracking=[wandb]",
        "cluster.offload=true",
    )
    assert config["algorithm"]["kl_coef"] == 0.04 and not config["algorithm"]["disable_kl"]
    filtering = [config["algorithm"][f"filter_{key}"] for key in ("key", "low", "high")]
    assert config["algorithm"]["online_filtering"] and filtering == ["overall", 0.1, 0.9]
    assert config["trainer"]["max_try_make_batch"] == 7 and config["trainer"]["logger"][-1] == "wandb"
    assert config["worker"]["actor"]["offload"]["offload_optimizer"] is True
    assert config["worker"]["actor"]["loss_avg_mode"] == "seq"  # response_mean
    assert config["worker"]["reward"]["reward_function_kwargs"]["reward"]["format_weight"] == 0.1


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("advantage=ema_grpo", "keep no state"),
        ("advantage=pa_grpo", "know no task, no segment"),
        ("reward=videop2r", "no tokens per segment"),
        ("prompt.system=Hello", "no system turn"),
        ("loss=gspo", "loss=gspo"),
        ("loss=dapo", "overlong"),
        ("loss.aggregation=constant", "aggregation=constant"),
        ("cluster.device=cpu", "needs GPUs"),
        ("tracking=[trackio]", "no trackio"),
    ],
)
def test_what_easyr1_cannot_do_is_refused(tiny_recipe, override, named):
    with pytest.raises(RecipeError, match=named):
        easyr1.check(tiny_recipe(*GPU, override))


def test_the_reward_function_scores_packed_samples(tiny_recipe):
    kwargs = rendered(tiny_recipe)["worker"]["reward"]
    path, name = kwargs["reward_function"].split(":")
    spec = importlib.util.spec_from_file_location("custom_reward_fn", path)  # as EasyR1 loads it
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sample = json.dumps({"id": "s", "task": "binary", "answer": "B", "options": ["No", "Yes"], "extras": {}})
    inputs = [{"response": text, "response_length": 9, "ground_truth": sample} for text in (GOOD, "B")]
    scores = getattr(module, name)(inputs, **kwargs["reward_function_kwargs"])
    assert module.REWARD_TYPE == "batch"
    assert [score["overall"] for score in scores] == [1.0, 0.0]
    assert scores[0]["format"] == scores[0]["accuracy"] == 1.0


def test_verls_own_settings_are_named_as_left_out(tiny_recipe):
    assert easyr1.left_out(tiny_recipe(*GPU, "+rl.engine={trainer.foo: 1, actor_rollout_ref.rollout.top_p: 0.9}"))


def our_prompt(model: Path, sample: Sample, media: dict, prompt: Prompt) -> tuple[list[int], list]:
    """Token ids and positions of a prompt, as verl's agent loop makes them for our rollouts and trainer."""
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    from launch.engines.vllm.clips import frames_of, with_media

    processor = AutoProcessor.from_pretrained(model)
    turns = with_media(messages(sample, prompt), [{"type": "video", "video": sample.video, **media}])
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    features = build_multimodal_processor_inputs(processor, text=[text], videos=frames_of(turns))
    ids = features["input_ids"]
    processor.config = AutoConfig.from_pretrained(model)
    processor.get_rope_index = types.MethodType(Qwen2_5_VLModel.get_rope_index, processor)
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    positions, _ = processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == video).long() * 2,
        video_grid_thw=features["video_grid_thw"],
        **processor.get_rope_index_kwargs(features),
    )
    return ids[0].tolist(), positions[:, 0].tolist()


def test_easyr1_itself_reads_the_rendered_files(tiny_recipe, tmp_path):
    """Its configuration classes, its data loader and its batch reward manager; the engine needs GPUs."""
    checkout = os.environ.get("CAMREASONER_EASYR1")
    if not checkout:
        pytest.skip("CAMREASONER_EASYR1 names no checkout of EasyR1")
    from launch.engines import patches

    patches.apply()
    recipe = tiny_recipe(*GPU, "rl.rollout_batch_size=32", "prompt.instructions.ota.default=Explain.")
    run = run_of(recipe)
    tokenizer = tiny_model.build_tokenizer(demo_texts())
    model = tiny_model.build_model(tokenizer, 0, tiny_model.TinySettings(tokens_per_second=2))
    tiny_model.save_model(model, tiny_model.build_processor(tokenizer, 84), tmp_path / "model")
    run.data.mkdir(parents=True)
    track = draw_track("truck_left", np.random.default_rng(7), frames=4, size=84, fps=2.0)
    write_clip(run.data / "clip.mp4", render_frames(draw_scene(np.random.default_rng(7)), track), 2.0)
    question = {"question": "Does it pan?", "options": ["No", "Yes"], "answer": "B", "task": "binary"}
    one = Sample(id="0", video="clip.mp4", source="rendered", split="rl", **question)
    write_samples(run.data / "rl.jsonl", [one.model_copy(update={"id": str(number)}) for number in range(32)])
    config = easyr1.write(run, str(tmp_path / "model"))
    responses = [GOOD, GOOD.replace("B", "A"), "B"]
    (tmp_path / "responses.json").write_text(json.dumps(responses))
    side = Path(__file__).with_name("easyr1_side.py")
    done = subprocess.run(
        [sys.executable, str(side), str(config), str(tmp_path / "responses.json"), str(tmp_path / "facts.json")],
        env=os.environ | {"PYTHONPATH": str(Path(checkout).absolute()), "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads((tmp_path / "facts.json").read_text())

    taken = facts["config"]
    assert taken["worker"]["reward"]["reward_function_name"] == "compute_score"
    assert taken["worker"]["rollout"]["n"] == recipe.rl.group_size
    assert taken["worker"]["actor"]["disable_kl"] is True and taken["data"]["max_pixels"] == recipe.media.max_pixels

    ids, positions = our_prompt(
        tmp_path / "model", one, video_item(run.data, Clip("clip.mp4", 4, 500, 84, 84, 1.0, "")), recipe.prompt
    )
    assert facts["rows"] == 32 and facts["prompt"] == ids
    assert facts["positions"][1:] == positions  # by time, height and width; the first row counts tokens
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert facts["prompt"].count(pad) == 2 * 3 * 3

    kwargs = taken["worker"]["reward"]["reward_function_kwargs"]
    scorer, packed = Scorer(kwargs["reward"]), json.loads(facts["ground_truth"])
    expected = [asyncio.run(scorer.score(text, packed)) for text in responses]
    for name in expected[0]:
        found = facts["rewards"]["metrics"]["overall" if name == "score" else name]
        assert found == [score[name] for score in expected]
    assert facts["rewards"]["last"] == pytest.approx([score["score"] for score in expected])

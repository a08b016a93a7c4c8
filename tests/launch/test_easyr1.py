"""EasyR1's rendering: against its own configuration classes where a checkout is named, else by its field names."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import easyr1
from launch.recipe import RecipeError
from launch.run import run_of

GPU = ("cluster=node_8gpu", "advantage=grpo", "rl.global_batch_size=32", "rl.micro_batch_size_per_gpu=1")
# Field names of EasyR1 0.3.3, b44b311, verl/trainer/config.py and verl/workers/*/config.py: those that we set.
FIELDS = {
    "data": "train_files val_files prompt_key answer_key video_key video_fps max_prompt_length max_response_length "
    "rollout_batch_size val_batch_size seed min_pixels max_pixels",
    "algorithm": "adv_estimator disable_kl use_kl_loss kl_penalty kl_coef online_filtering filter_key filter_low "
    "filter_high",
    "worker": "actor rollout ref reward",
    "worker.actor": "global_batch_size micro_batch_size_per_device_for_update "
    "micro_batch_size_per_device_for_experience max_grad_norm clip_ratio_low clip_ratio_high loss_avg_mode model optim "
    "offload",
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
    run = run_of(tiny_recipe(*GPU, *overrides))
    return easyr1.render(run, "model", run.folder / "easyr1")


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
    assert config["worker"]["actor"]["loss_avg_mode"] == "seq"  # rl/tiny.yaml: seq-mean-token-mean
    assert config["worker"]["reward"]["reward_function_kwargs"]["format_weight"] == 0.1


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("advantage=ema_grpo", "keep no state"),
        ("reward=videop2r", "no tokens by segment"),
        ("data.system=Hello", "no system turn"),
        ("cluster.device=cpu", "needs GPUs"),
    ],
)
def test_what_easyr1_cannot_do_is_refused(tiny_recipe, override, named):
    with pytest.raises(RecipeError, match=named):
        easyr1.check(tiny_recipe(*GPU, override))


def test_the_reward_function_scores_packed_samples(tiny_recipe, tmp_path):
    path = tmp_path / "reward.py"
    path.write_text(easyr1.reward_file(tiny_recipe(*GPU)))
    spec = importlib.util.spec_from_file_location("custom_reward_fn", path)  # as EasyR1 loads it
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sample = json.dumps({"id": "s", "task": "binary", "answer": "B", "options": ["No", "Yes"], "extras": {}})
    good = "<observation>It pans.</observation><think>So.</think><answer>B</answer>"
    inputs = [{"response": text, "response_length": 9, "ground_truth": sample} for text in (good, "B")]
    scores = module.compute_score(inputs, format_weight=0.1)
    assert module.REWARD_TYPE == "batch"
    assert [score["overall"] for score in scores] == [1.0, 0.0]
    assert scores[0]["format"] == scores[0]["accuracy"] == 1.0


def test_easyr1s_own_classes_take_it(tiny_recipe, tmp_path):
    checkout = os.environ.get("CAMREASONER_EASYR1")
    if not checkout:
        pytest.skip("CAMREASONER_EASYR1 names no checkout of EasyR1")
    recipe = tiny_recipe(*GPU)
    run = run_of(recipe)
    folder = tmp_path / "easyr1"
    folder.mkdir()
    (folder / "reward.py").write_text(easyr1.reward_file(recipe))
    (folder / "config.json").write_text(json.dumps(easyr1.render(run, "model", folder)))
    code = """
import sys, types
from omegaconf import OmegaConf
# Of the rollout, the configuration is wanted, not the engine: that needs EasyR1's own version of vLLM.
engine = types.ModuleType("verl.workers.rollout.vllm_rollout_spmd")
engine.vLLMRollout = None
sys.modules[engine.__name__] = engine
from verl.trainer.config import PPOConfig
config = OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(sys.argv[1]))
config = OmegaConf.to_object(config)
config.deep_post_init()
sys.stdout.write(f"{config.worker.rollout.n} {config.worker.reward.reward_function_name}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "config.json")],
        env=os.environ | {"PYTHONPATH": str(Path(checkout).absolute())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{recipe.rl.group_size} compute_score"

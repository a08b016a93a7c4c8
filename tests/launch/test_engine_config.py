"""What a recipe becomes in the engines' own configurations."""

import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_tools.rendered.tiny_families import TURNS
from launch.compose import compose_recipe
from launch.engines.llamafactory import config as llamafactory
from launch.engines.verl import config as verl
from launch.engines.vllm.settings import engine_arguments
from launch.recipe import RecipeError
from launch.run import run_of

GIVEN = ("data.media_root=/v", "data.files.rl=rl.jsonl", "data.files.test=test.jsonl", "judge=rules")
GPUS = ("cluster=node_8gpu", "rl.micro_batch_size_per_gpu=1")


@pytest.fixture
def rendered(tiny_recipe):
    def render(*overrides: str, steps: int = 40):
        return verl.render(run_of(tiny_recipe(*overrides)), "some/model", steps, Path("/scratch/ray"))

    return render


def test_verl_reads_and_writes_in_the_run_folder(rendered, tiny_recipe):
    config, folder = rendered(), run_of(tiny_recipe()).folder
    assert config.data.train_files == str(folder / "data" / "verl" / "rl.parquet")
    assert config.trainer.default_local_dir == str(folder / "rl" / "checkpoints")
    assert config.trainer.rollout_data_dir == str(folder / "rl" / "rollouts")
    assert (config.actor_rollout_ref.model.path, config.trainer.total_training_steps) == ("some/model", 40)


def test_camreasoner_s_clip_is_asymmetric_and_the_demo_s_is_not(rendered):
    ratios = "clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c"
    actor = rendered().actor_rollout_ref.actor
    assert [actor[ratio] for ratio in ratios] == [0.2, 0.2, 0.2, 3.0]
    actor = rendered("loss=camreasoner").actor_rollout_ref.actor
    assert [actor[ratio] for ratio in ratios] == [0.2, 0.2, 0.3, 3.0]


def test_a_machine_without_a_gpu_changes_what_needs_one(rendered):
    cpu, gpu = rendered(), rendered(*GPUS)
    assert (cpu.trainer.device, gpu.trainer.device) == ("cpu", "cuda")
    assert (cpu.data.dataloader_num_workers, gpu.data.dataloader_num_workers) == (0, 8)
    assert (cpu.reward.num_workers, gpu.reward.num_workers) == (1, 8)
    assert cpu.actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype == "fp32"
    assert "mixed_precision" not in gpu.actor_rollout_ref.actor.fsdp_config
    assert OmegaConf.select(cpu, "ray_kwargs.ray_init.num_gpus") == 1
    assert OmegaConf.select(gpu, "ray_kwargs.ray_init.num_gpus") is None


@pytest.mark.e2e
def test_layers_with_a_state_keep_no_beginnings_of_prompts_where_prompts_come_whole(rendered, tiny_recipe):
    """vLLM 0.24.0 refuses it (models/config.py, "Chunked prefill is required for mamba cache mode 'align'")."""
    for model, kept in (("tiny", True), ("tiny_qwen3_vl", True), ("tiny_qwen3_5", False)):
        assert rendered(f"model={model}").actor_rollout_ref.rollout.enable_prefix_caching is kept
        assert engine_arguments(tiny_recipe(f"model={model}"), "m").get("enable_prefix_caching", True) is kept
    assert rendered("model=tiny_qwen3_5").actor_rollout_ref.rollout.dtype == "bfloat16"
    assert rendered(*GPUS, "model=qwen3_5_9b").actor_rollout_ref.rollout.enable_prefix_caching is True


def test_qwen3_5s_prompts_open_no_thought_as_those_of_sft_do_not(rendered, tiny_recipe):
    text = tiny_recipe("model=qwen3_5_9b").model.chat_template
    assert text == TURNS and "think" not in text
    assert rendered("model=qwen3_5_9b").actor_rollout_ref.model.custom_chat_template == text
    assert rendered().actor_rollout_ref.model.custom_chat_template is None


def test_a_judge_behind_an_endpoint_has_one_reward_process(rendered):
    assert rendered(*GPUS, "judge=endpoint", "judge.model=m").reward.num_workers == 1


def test_a_running_cluster_is_joined_and_a_node_of_our_own_started(rendered):
    assert rendered().ray_kwargs.ray_init["_temp_dir"] == "/scratch/ray"
    joined = rendered(*GPUS, "cluster.address=10.0.0.1:6379").ray_kwargs.ray_init
    assert joined.address == "10.0.0.1:6379" and "_temp_dir" not in joined and "include_dashboard" not in joined


def test_the_filter_is_verls_sampler_or_nothing(rendered):
    assert rendered().trainer.v1.sampler.sampler_kwargs.filter is None
    filtered = rendered("rl.filter.enabled=true")
    assert filtered.trainer.v1.sampler.sampler_kwargs.filter.metric == "accuracy"
    assert filtered.data.gen_batch_size is None


@pytest.mark.parametrize(("given", "drawn"), [([], 1), (["rl.twins.turns=[mirrored]"], 2)])
def test_rounds_that_fill_a_step_are_of_any_number_of_prompts(rendered, given, drawn):
    config = rendered("rl.filter.enabled=true", "rl.filter.refill=missing", *given)
    assert config.data.gen_batch_size == drawn
    assert config.trainer.v1.sampler.sampler_kwargs.filter.refill == "missing"
    whole = rendered("rl.filter.refill=missing", "rl.twins.turns=[shuffled]", "rl.twins.temporal_bonus=0.3")
    assert whole.data.gen_batch_size is None and whole.trainer.v1.sampler.sampler_kwargs.filter.refill == "batch"


@pytest.mark.parametrize(
    ("experiment", "schedule"), [("camreasoner", "constant"), ("videop2r", "constant"), ("videochat_r1", "cosine")]
)
def test_learning_rates_fall_as_the_papers_do(experiment, schedule):
    recipe, _ = compose_recipe([f"experiment={experiment}", *GIVEN])
    optimizer = verl.render(run_of(recipe), "some/model", 1000, Path("/scratch/ray")).actor_rollout_ref.actor.optim
    assert optimizer.get("lr_scheduler_type", "constant") == schedule
    assert not optimizer.get("min_lr_ratio") and optimizer.get("lr_warmup_steps", -1) <= 0


def test_videop2r_s_learning_rate_is_that_of_its_script_over_the_steps_that_were_trained():
    """The script: a cosine over one epoch of 260,000 questions, 4 a step, stopped after 1,000 of its 65,000 steps."""
    recipe, _ = compose_recipe(["experiment=videop2r", *GIVEN])
    optimizer = verl.render(run_of(recipe), "some/model", 1000, Path("/scratch/ray")).actor_rollout_ref.actor.optim
    script = [(1 + math.cos(math.pi * step / 65_000)) / 2 for step in range(1000)]
    assert optimizer.lr_scheduler_type == "constant" and sum(script) / 1000 == pytest.approx(1.0, abs=3e-4)


def test_verls_own_keys_are_laid_over_and_unknown_ones_refused(rendered):
    key = "rl.engine.actor_rollout_ref.actor"
    assert rendered(f"+{key}.optim.lr=0.5").actor_rollout_ref.actor.optim.lr == 0.5
    with pytest.raises(RecipeError, match="verl refuses actor_rollout_ref.actor.optim.rate"):
        rendered(f"+{key}.optim.rate=0.5")
    with pytest.raises(RecipeError, match="its own value is"):
        rendered(f"+{key}.ppo_epochs=many")


def test_llamafactorys_own_keys_are_laid_over(tiny_recipe):
    plain = llamafactory.render(run_of(tiny_recipe()))
    assert (plain["use_cpu"], plain["bf16"], plain["report_to"]) == (True, False, "none")
    changed = llamafactory.render(run_of(tiny_recipe("+sft.engine.logging_steps=1", "tracking=[wandb]")))
    assert {key for key in plain if plain[key] != changed[key]} == {"logging_steps", "report_to"}

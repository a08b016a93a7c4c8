"""Plans through the engines' own parsers (imported once, in this process)."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import pytest
from rich.console import Console

from launch import plan
from launch.errors import LaunchError
from launch.inert import leave_out
from launch.recipe import RecipeError


def planned(*overrides: str) -> str:
    """The table of an experiment that can run, as text."""
    recipe, yours = plan.compose_recipe(overrides)
    plan.check(recipe)
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(plan.table(recipe, yours))
    return console.export_text()


@pytest.mark.parametrize("experiment", plan.experiments())
def test_every_experiment_can_run(experiment, tmp_path):
    text = planned(f"experiment={experiment}", f"runs={tmp_path / 'runs'}")
    assert experiment in text and "checked by" in text
    assert not (tmp_path / "runs").exists()  # a plan writes nothing


def test_arithmetic_of_camreasoner():
    text = planned("experiment=camreasoner")
    assert "10688 visual tokens" in text  # 32 pairs of frames, 334 patches of 28 x 28 in 262,144 pixels
    assert "1 x 2 x 8 = 16 chains" in text
    assert "128 prompts x 8 = 1024 rollouts" in text and "4 mini-batches per step of 32 prompts, 256 rollouts" in text
    assert "84, 86016 rollouts, 336 updates" in text
    assert "data.media_root=... (a place-holder" in text


def test_steps_are_counted_where_the_data_is_rendered():
    sft = ["data.rendered.sft.binary=600", "data.rendered.sft.choice=300", "sft.num_train_epochs=2"]
    sft += ["sft.per_device_train_batch_size=32", "sft.gradient_accumulation_steps=1"]
    rl = ["data.rendered.rl.binary=70", "data.rendered.rl.choice=30", "rl.steps=null", "rl.epochs=3"]
    rl += ["rl.rollout_batch_size=32", "rl.global_batch_size=16", "rl.group_size=4"]
    text = planned("experiment=demo", *sft, *rl)
    assert "58 (2 epochs of 900 chains)" in text  # 2 x 29 batches, the last one smaller
    assert "9, 1152 rollouts, 18 updates" in text  # 3 x 3 batches, the rest of 4 prompts left out
    assert "18 visual tokens" in text
    assert "place-holder" not in text


MISTAKES = [
    ("+sft.engine.learning_rat=1", "LLaMA-Factory.*learning_rat"),
    ("+sft.engine.adam_epsilon=much", "LLaMA-Factory.*adam_epsilon"),
    ("+sft.engine.finetuning_type=most", "LLaMA-Factory.*finetuning_type"),
    ("sft.lr_scheduler_type=cosin", "LLaMA-Factory.*cosin"),
    ("sft.deepspeed=nowhere.json", "sft.deepspeed.*nowhere.json"),
    ("+rl.engine.trainer.save_freqq=1", r"verl.*trainer\.save_freqq"),
    ("+rl.engine.trainer.save_freq=often", r"verl.*trainer\.save_freq.*often"),
    ("+rl.engine.actor_rollout_ref.actor.loss_agg_mode=most", "verl.*loss_agg_mode"),
    ("+rl.engine.actor_rollout_ref.model.lora_rank=1.5", "verl.*lora_rank"),
    ("cluster.gpus_per_node=7", "multiple of 7 rank"),
    ("reward.formula=other", "reward formula 'other'"),
    ("reward.name=other", "reward.name=other"),
    ("+advantage.momentum=1", "advantage ema_grpo.*momentum"),
    ("advantage.decay=2", "decay 2"),
    ("rl.max_prompt_length=18", "rl.max_prompt_length=18 cannot hold the 18 visual tokens"),
    ("sft.cutoff_len=10", "sft.cutoff_len=10"),
    ("data.rendered.size=56.5", r"data\.rendered\.size"),
    ("media.fps=1", "not the media budget"),
    ("sft.no_such_key=1", "sft.no_such_key"),
]


@pytest.mark.parametrize(("override", "named"), MISTAKES)
def test_mistakes_are_refused_by_name(override, named):
    with pytest.raises((RecipeError, LaunchError), match=named):
        planned("experiment=demo", override)


def verdict(*overrides: str) -> dict | str:
    try:
        return plan.check(plan.compose_recipe(overrides)[0])
    except (RecipeError, LaunchError) as error:
        return str(error)


def verdicts_without(packages: Sequence[str], cases: Sequence[Sequence[str]]) -> list[dict | str]:
    leave_out(*packages)
    return [verdict(*case) for case in cases]


def test_what_a_plan_leaves_out_of_the_engines_changes_no_verdict():
    cases = [[f"experiment={experiment}"] for experiment in plan.experiments()]
    cases += [["experiment=demo", override] for override, _ in MISTAKES]
    cases += [["experiment=demo", "tracking=[wandb,mlflow]"], ["experiment=videochat_r1", "cluster=one_gpu"]]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # the engines are imported here already
        light = pool.submit(verdicts_without, plan.UNUSED, cases)
        assert [verdict(*case) for case in cases] == light.result()


def test_a_package_left_out_gives_no_answer():
    leave_out("no_such_package")
    from no_such_package.deep import decorator, settings

    @decorator
    @settings(fast=True)
    def function():
        return 1

    assert function() == 1
    with pytest.raises(TypeError, match=r"no_such_package\.deep\.settings is left out"):
        assert settings
    with pytest.raises(AttributeError):
        settings.__version__  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        import no_such_package_either  # noqa: F401


def test_plans_are_compared_key_by_key(tmp_path):
    first, _ = plan.compose_recipe(["experiment=demo"])
    plan.save(plan.check(first), tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.yaml")} == set(plan._FILES.values())
    assert plan.differences(plan.check(first), tmp_path) == []
    second, _ = plan.compose_recipe(["experiment=demo", "rl.group_size=16", "sft.learning_rate=1e-3"])
    found = {key: (there, here) for key, there, here in plan.differences(plan.check(second), tmp_path)}
    assert found["recipe: rl.group_size"] == found["rl: actor_rollout_ref.rollout.n"] == ("8", "16")
    assert found["sft: learning_rate"] == ("0.002", "0.001")
    (tmp_path / "rl" / "verl.yaml").unlink()  # a run that has not come to its RL
    assert not any(key.startswith("rl: ") for key, *_ in plan.differences(plan.check(second), tmp_path))
    with pytest.raises(RecipeError, match="holds no recipe.yaml"):
        plan.differences({}, tmp_path / "rl")


def test_trackers_reach_both_engines():
    rendered = plan.check(plan.compose_recipe(["experiment=demo", "tracking=[wandb,mlflow]"])[0])
    assert rendered["sft"]["report_to"] == ["wandb", "mlflow"]
    assert rendered["rl"]["trainer"]["logger"] == ["console", "file", "tensorboard", "wandb", "mlflow"]
    off = plan.check(plan.compose_recipe(["experiment=demo"])[0])
    assert off["sft"]["report_to"] == "none" and off["rl"]["trainer"]["logger"][-1] == "tensorboard"
    with pytest.raises(RecipeError, match="tracking"):
        plan.compose_recipe(["experiment=demo", "tracking=[comet]"])


def test_needs_are_shown_with_their_bars():
    text = planned("experiment=camreasoner", "cluster=ray_cluster", "rl.rollout.gpu_memory_utilization=0.75")
    assert "GPU in RL updates" in text and "GPU-hours" in text and "of 1,000: engines" in text
    assert "2 node(s) x 8, cuda, Ray at auto" in text
    joined = plan.check(plan.compose_recipe(["experiment=camreasoner", "cluster=ray_cluster"])[0])["rl"]
    assert joined["ray_kwargs"]["ray_init"]["address"] == "auto" and joined["trainer"]["nnodes"] == 2


def test_one_gpu_offloads_in_both_engines():
    rendered = plan.check(plan.compose_recipe(["experiment=videochat_r1", "cluster=one_gpu"])[0])
    assert rendered["rl"]["actor_rollout_ref"]["actor"]["fsdp_config"]["offload_policy"] is True
    assert rendered["sft"]["deepspeed"].endswith("zero3_offload.json")

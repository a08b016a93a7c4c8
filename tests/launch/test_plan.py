"""Plans through the engines' own parsers (two processes, which serve all tests)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from launch import plan
from launch.compose import compose_recipe
from launch.engines import parsers
from launch.errors import LaunchError
from launch.overrides import quoted
from launch.planning import show
from launch.planning.prompts import check_prompts, prompts
from launch.recipe import ROOT, RecipeError
from rewards.errors import UserError

RL = "data.files.rl=[{source: charades_sta, path: /a}, {source: nextgqa, path: /b}]"
SFT = "data.files.sft={source: camreasoner_sft, path: /a}"


def planned(*overrides: str) -> str:
    """The table of an experiment that can run, as text."""
    recipe, missing = compose_recipe(overrides)
    plan.check(recipe)
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(show.plan_table(recipe, missing))
    return console.export_text()


@pytest.mark.e2e
@pytest.mark.parametrize("experiment", plan.experiments())
def test_every_experiment_can_run(experiment, tmp_path):
    text = planned(f"experiment={experiment}", f"runs={tmp_path / 'runs'}")
    assert experiment in text and "checked by" in text
    assert not (tmp_path / "runs").exists()  # a plan writes nothing


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("model", "path"), [("qwen3_vl_8b", "Qwen/Qwen3-VL-8B"), ("qwen3_5_9b", "Qwen/Qwen3.5-9B")], ids=lambda value: value
)
def test_an_experiment_can_run_with_a_model_of_another_family(model, path):
    assert path in planned("experiment=camreasoner", f"model={model}")


def test_arithmetic_of_camreasoner():
    text = planned("experiment=camreasoner")
    assert "10688 visual tokens" in text  # 32 pairs of frames, 334 patches of 28 x 28 in 262,144 pixels
    assert "1 x 2 x 8 = 16 chains" in text
    assert "128 prompts x 8 = 1024 rollouts" in text and "4 mini-batches per step of 32 prompts, 256 rollouts" in text
    assert "84, 86016 rollouts, 336 updates" in text
    assert "data.media_root=... (placeholder" in text


def test_steps_are_counted_where_the_data_is_rendered():
    sft = ["data.rendered.sft.binary=600", "data.rendered.sft.choice=300", "sft.num_train_epochs=2"]
    sft += ["sft.per_device_train_batch_size=32", "sft.gradient_accumulation_steps=1"]
    rl = ["data.rendered.rl.binary=70", "data.rendered.rl.choice=30", "rl.steps=null", "rl.epochs=3"]
    rl += ["rl.rollout_batch_size=32", "rl.global_batch_size=16", "rl.group_size=4"]
    text = planned("experiment=demo", *sft, *rl)
    assert "58 (2 epochs of 900 chains)" in text  # 2 x 29 batches, the last one smaller
    assert "9, 1152 rollouts, 18 updates" in text  # 3 x 3 batches, the rest of 4 prompts left out
    assert "18 visual tokens" in text
    assert "placeholder" not in text


MISTAKES = [
    ("+sft.engine.learning_rat=1", "LLaMA-Factory.*learning_rat"),
    ("+sft.engine.adam_epsilon=much", "LLaMA-Factory.*adam_epsilon"),
    ("+sft.engine.freeze_trainable_layers=most", "LLaMA-Factory.*freeze_trainable_layers"),
    ("+sft.engine.finetuning_type=lora", r"sft\.engine\.finetuning_type: lora=rank64"),
    ("+sft.engine.lora_rank=8", r"sft\.engine\.lora_rank: lora=rank64"),
    ("+sft.engine.max_steps=10", r"sft\.engine\.max_steps: sft\.num_train_epochs"),
    ("+sft.engine.save_strategy=steps", r"sft\.engine\.save_strategy: each epoch"),
    ("+sft.engine.save_total_limit=1", r"sft\.engine\.save_total_limit: each epoch"),
    ("sft.lr_scheduler_type=cosin", "LLaMA-Factory.*cosin"),
    ("sft.deepspeed=nowhere.json", "sft.deepspeed.*nowhere.json"),
    ("+rl.engine.trainer.save_freqq=1", r"verl.*trainer\.save_freqq"),
    ("+rl.engine.trainer.save_freq=often", r"verl.*trainer\.save_freq.*often"),
    ("+rl.engine.actor_rollout_ref.actor.loss_agg_mode=most", "verl.*loss_agg_mode"),
    ("+rl.engine.actor_rollout_ref.model.mtp.speculative_num_steps=1.5", "verl.*speculative_num_steps"),
    ("+rl.engine.actor_rollout_ref.model.lora_rank=64", r"rl\.engine\..*lora_rank: lora=rank64"),
    ("cluster.gpus_per_node=7", "multiple of 7 rank"),
    ("reward.formula=other", "reward.formula='other'"),
    ("reward.name=other", "reward.name=other"),
    ("+advantage.momentum=1", "advantage.momentum: unknown setting"),
    ("advantage.decay=2", "decay 2"),
    ("rl.max_prompt_length=18", "rl.max_prompt_length=18 cannot hold the 18 visual tokens"),
    ("sft.cutoff_len=10", "sft.cutoff_len=10"),
    ("data.rendered.size=56.5", r"data\.rendered\.size"),
    ("media.fps=1", "not the media budget"),
    ("sft.no_such_key=1", "sft.no_such_key"),
]


@pytest.mark.parametrize(("override", "named"), MISTAKES)
def test_mistakes_are_refused_by_name(override, named):
    with pytest.raises(UserError, match=named):
        planned("experiment=demo", override)


ON_GPUS = [
    ("+sft.engine.pure_bf16=true", "pure_bf16. is incompatible with DeepSpeed ZeRO-3"),
    ("+sft.engine.use_galore=true", "GaLore and APOLLO are incompatible with DeepSpeed"),
]


@pytest.mark.parametrize(("override", "named"), ON_GPUS)
def test_keys_that_deepspeed_refuses_on_gpus_are_refused_without_any(override, named):
    """LLaMA-Factory's parser is asked with the keys that will run, as under torchrun."""
    with pytest.raises(UserError, match=named):
        planned("experiment=camreasoner", override)


PROMPTS = [
    (
        ["experiment=videochat_r1", "prompt=plain"],
        "prompt.instructions.think_answer asks binary .rl. for no tags.*<think>",
    ),
    (
        ["experiment=videochat_r1", "prompt=camreasoner", RL],
        "no think_answer_glue, which the reward reads.*grounded_qa",
    ),
    (
        ["experiment=videochat_r1", RL, "prompt.instructions.answer.binary=Say it in <think> </think>."],
        "asks for <think>",
    ),
    (["experiment=camreasoner", "prompt.instructions.ota.default=<think></think><answer></answer>"], "<observation>"),
    (["experiment=camreasoner", "rl.start_epoch=0", "prompt=plain", "eval.models=[rl]"], "no tags.*rl.start_epoch=0"),
    (
        ["experiment=camreasoner", "rl.start_epoch=0", "prompt=plain", "data.files.rl=null"],
        r"\(test\).*no SFT has taught",
    ),
    (["experiment=camreasoner", RL.replace("charades_sta", "camreasoner_rl"), "prompt=videochat_r1"], "has no ota"),
    (["experiment=camreasoner", "data.chains=gold", SFT], "data.chains=gold writes no thoughts.*reads ota"),
    (["experiment=camreasoner", "data.chains=think_answer", SFT], "data.chains=think_answer, but the reward reads ota"),
]


@pytest.mark.parametrize(("overrides", "named"), PROMPTS)
def test_a_prompt_that_cannot_ask_for_what_the_reward_reads_is_refused(overrides, named):
    with pytest.raises(UserError, match=named):
        check_prompts(compose_recipe(quoted(overrides))[0])


def test_a_prompt_without_tags_is_allowed_where_sft_teaches_the_form():
    check_prompts(compose_recipe(["experiment=camreasoner", "prompt=plain"])[0])
    only = ["rl.start_epoch=0", "data.files.rl=null", "eval.models=[sft]"]
    check_prompts(compose_recipe(["experiment=camreasoner", "prompt=plain", *only])[0])


def shown(*overrides: str) -> dict[str, str]:
    recipe, _ = compose_recipe(overrides)
    return dict(prompts(recipe, check_prompts(recipe)))


def test_a_plan_shows_one_prompt_per_task_and_split():
    texts = shown("experiment=demo_videochat_r1")
    assert list(texts) == [
        f"sft, rl, test: {task} (think_answer)" for task in ("binary", "choice", "temporal_grounding", "tracking")
    ]
    texts = shown("experiment=videochat_r1", RL)
    assert list(texts) == ["rl: temporal_grounding (think_answer)", "rl: grounded_qa (think_answer_glue)"]
    assert "<glue>" in texts["rl: grounded_qa (think_answer_glue)"]
    assert "<think>" not in "".join(shown("experiment=videochat_r1", RL, "reward.prompt=direct").values())
    assert list(shown("experiment=videochat_r1", RL, "data.tasks.rl=[grounded_qa]")) == list(texts)[1:]


def test_a_plan_shows_the_prompts_of_files_that_are_there(tmp_path):
    fields = {"id": "1", "video": "a.mp4", "source": "mine", "split": "rl", "question": "How many?"}
    path = tmp_path / "rl.jsonl"
    path.write_text(json.dumps({**fields, "task": "numerical", "answer": "3"}) + "\n")
    (text,) = shown("experiment=camreasoner", f"data.files.rl={path}").values()
    assert "<video>How many?\nFirst describe" in text and "the number alone, without a unit in <answer>" in text
    path.write_text(json.dumps({**fields, "task": "temporal_grounding", "spans": [[1, 2]]}) + "\n")
    with pytest.raises(RecipeError, match="rl: sample '1' .temporal_grounding.: extras.event: is missing"):
        shown("experiment=videochat_r1", f"data.files.rl={path}")


def test_an_engines_further_keys_reach_its_parser():
    further = {"adam_beta2": 0.95, "neftune_noise_alpha": 5}
    given = [f"+sft.engine.{key}={value}" for key, value in further.items()]
    sft = plan.check(compose_recipe(["experiment=camreasoner", *given])[0])["sft"]
    assert further.items() <= sft.items()


def test_a_recipe_with_adapters_is_one_that_both_engines_accept():
    rendered = plan.check(compose_recipe(["experiment=camreasoner", "lora=rank64"])[0])
    assert rendered["sft"]["lora_rank"] == rendered["rl"]["actor_rollout_ref"]["model"]["lora_rank"] == 64


@pytest.mark.e2e
def test_each_parser_imports_its_own_engine_alone():
    processes = parsers.start()
    plan.check(compose_recipe(["experiment=demo"])[0])
    assert parsers.start() is processes and processes.keys() == {"llamafactory", "verl"}  # one start for all recipes
    for engine, process in processes.items():
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert "/torch/" in loaded and ("ray/_raylet" in loaded) == (engine == "verl")


def test_a_parser_that_ends_is_named(monkeypatch):
    parsers.start.cache_clear()
    monkeypatch.setattr(parsers.sys, "executable", "false")
    with pytest.raises(LaunchError, match=r"llamafactory's parser ended \(exit code 1\)"):
        plan.check(compose_recipe(["experiment=demo"])[0])
    parsers.start.cache_clear()


def test_a_plan_that_ends_leaves_nobody_behind_who_holds_its_output():
    """A refused plan of seconds kept `2>&1 | less` waiting until both engines were imported: a minute and more."""
    begin = "from launch.engines import parsers; print(*[each.pid for each in parsers.start().values()])"
    done = subprocess.run([sys.executable, "-c", begin], cwd=ROOT, capture_output=True, text=True, check=True)
    pids = done.stdout.split()
    assert len(pids) == 2 and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.e2e
def test_plans_are_compared_key_by_key(tmp_path):
    first, _ = compose_recipe(["experiment=demo"])
    plan.save(plan.check(first), tmp_path)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yaml")}
    assert written == {"recipe.yaml", "sft/llamafactory.yaml", "rl/verl.yaml"}
    assert plan.compare(plan.check(first), tmp_path) == []
    second, _ = compose_recipe(["experiment=demo", "rl.group_size=16", "sft.learning_rate=1e-3"])
    found = {key: (there, here) for key, there, here in plan.compare(plan.check(second), tmp_path)}
    assert found["recipe: rl.group_size"] == found["rl: actor_rollout_ref.rollout.n"] == ("8", "16")
    assert found["sft: learning_rate"] == ("0.002", "0.001")
    (tmp_path / "rl" / "verl.yaml").unlink()  # a run that has not come to its RL
    assert not any(key.startswith("rl: ") for key, *_ in plan.compare(plan.check(second), tmp_path))
    with pytest.raises(RecipeError, match="holds no recipe.yaml"):
        plan.compare({}, tmp_path / "rl")


@pytest.mark.e2e
def test_trackers_reach_both_engines():
    rendered = plan.check(compose_recipe(["experiment=demo", "tracking=[wandb,mlflow]"])[0])
    assert rendered["sft"]["report_to"] == ["wandb", "mlflow"]
    assert rendered["rl"]["trainer"]["logger"] == ["console", "file", "tensorboard", "wandb", "mlflow"]
    off = plan.check(compose_recipe(["experiment=demo"])[0])
    assert off["sft"]["report_to"] == "none" and off["rl"]["trainer"]["logger"][-1] == "tensorboard"
    with pytest.raises(RecipeError, match="tracking"):
        compose_recipe(["experiment=demo", "tracking=[comet]"])


@pytest.mark.e2e
def test_needs_are_shown_with_their_bars():
    text = planned("experiment=camreasoner", "cluster=ray_cluster", "rl.rollout.gpu_memory_utilization=0.75")
    assert "GPU in RL updates" in text and "GPU-hours" in text and "of 1,000: engines" in text
    assert "2 node(s) x 8, cuda, Ray at auto" in text
    joined = plan.check(compose_recipe(["experiment=camreasoner", "cluster=ray_cluster"])[0])["rl"]
    assert joined["ray_kwargs"]["ray_init"]["address"] == "auto" and joined["trainer"]["nnodes"] == 2


def test_one_gpu_offloads_in_both_engines():
    rendered = plan.check(compose_recipe(["experiment=videochat_r1", "cluster=one_gpu"])[0])
    assert rendered["rl"]["actor_rollout_ref"]["actor"]["fsdp_config"]["offload_policy"] is True
    assert rendered["sft"]["deepspeed"].endswith("zero3_offload.json")

"""LoRA through the real engines, on the smaller demo's data and model: SFT, RL from its model, merge, answers."""

import json
from pathlib import Path

import pytest
import torch
from chain import copy_before, lines, run
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from launch.engines.adapters import of_verl

ADAPTERS = [
    "lora=rank64",
    "lora.rank=8",
    "sft.num_train_epochs=1",
    "sft.learning_rate=1e-2",
    "sft.warmup_steps=0",
    "rl.learning_rate=1e-2",
    "rl.steps=2",
    "rl.save_every=1",
    "rl.engine={actor_rollout_ref.actor.optim.lr_warmup_steps: 0}",  # else the first step has a learning rate of 0
    # A model that has learnt next to nothing differs in the length of its responses: that is what it is rewarded by.
    "loss.overlong={share: 1.0, penalty: 1.0}",
    "eval.models=[rl]",
    "eval.option_scores=null",
]


@pytest.fixture(scope="module")
def adapted(demo) -> Path:
    folder = copy_before("sft", demo, "adapted")
    for stage in ("sft", "rl", "merge", "evaluate"):
        run(stage, demo.parents[1], folder.name, *ADAPTERS)
    return folder


def model_in(folder: Path):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def log_probabilities(model, folder: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(folder)("Does the camera pan to the left?", return_tensors="pt").input_ids
    with torch.no_grad():
        return model(input_ids=ids).logits.log_softmax(-1)


def of_policy(run_folder: Path, start: Path, step: int) -> torch.Tensor:
    """Log-probabilities of the model `start` with the adapters that RL kept after a step."""
    config, weights = of_verl(run_folder / "rl" / "checkpoints" / f"global_step_{step}" / "actor")
    policy = get_peft_model(model_in(start), config)
    set_peft_model_state_dict(policy, weights)
    return log_probabilities(policy, start)


def test_merged_models_give_the_log_probabilities_of_the_adapted_ones(adapted):
    (checkpoint,) = (adapted / "sft").glob("checkpoint-*")
    start = adapted / "sft" / "merged" / checkpoint.name
    trained = PeftModel.from_pretrained(model_in(adapted / "model"), checkpoint)
    before = log_probabilities(model_in(start), start)
    assert (log_probabilities(trained, start) - before).abs().max() < 1e-5
    after = log_probabilities(model_in(adapted / "merged"), adapted / "merged")
    assert (of_policy(adapted, start, 2) - after).abs().max() < 1e-5
    assert (after - before).abs().max() > 0.01


def test_the_language_model_alone_is_trained(adapted):
    models = adapted / "model", next((adapted / "sft" / "merged").iterdir()), adapted / "merged"
    weights = [load_file(folder / "model.safetensors") for folder in models]
    layers = json.loads((adapted / "model" / "config.json").read_text())["text_config"]["num_hidden_layers"]
    for before, after in zip(weights, weights[1:]):
        changed = {name for name in before if not before[name].equal(after[name])}
        assert len(changed) == 7 * layers and not any("visual" in name for name in changed)


def test_rollouts_come_from_the_adapters_that_a_step_has_changed(adapted):
    """In step 2 vLLM's probabilities of its own tokens are those of the actor, which step 1 has changed."""
    first, second = (line["data"] for line in lines(adapted / "rl" / "metrics.jsonl"))
    assert first["groups/effective"] > 0 and first["actor/grad_norm"] > 0 and second["actor/grad_norm"] > 0
    start = next((adapted / "sft" / "merged").iterdir())
    changed = of_policy(adapted, start, 1) - log_probabilities(model_in(start), start)
    assert changed.abs().max() > 0.1
    for step in (first, second):
        assert step["training/rollout_actor_probs_pearson_corr"] >= 0.999
        assert step["training/rollout_probs_diff_mean"] < 1e-3
    assert len(lines(adapted / "eval" / "test" / "rl" / "predictions.jsonl")) == 75

"""Other families' tiny models through every stage of a smaller demo."""

import math

import pytest
from chain import lines, run
from safetensors.torch import load_file

from data_tools.run_folder import RunFolder

SHORT = [
    "data.rendered.val=null",
    "rl.held_out.every=0",
    "sft.num_train_epochs=1",
    "sft.warmup_steps=0",
    "rl.steps=2",
    "rl.save_every=2",
    "rl.engine={actor_rollout_ref.actor.optim.lr_warmup_steps: 0}",  # else the first step has a learning rate of 0
    # A model that has learnt next to nothing differs in the length of its responses: that is what it is rewarded by.
    "loss.overlong={share: 1.0, penalty: 1.0}",
    "eval.models=[rl]",
    "eval.twins=[]",
]
FAMILIES = {"tiny_qwen3_vl": "qwen3_vl", "tiny_qwen3_5": "qwen3_5"}  # a recipe of recipes/model -> model_type


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory) -> tuple[str, RunFolder]:
    """Its clips are rendered anew: their sides are whole visual tokens, which are larger than the demo's."""
    runs = tmp_path_factory.mktemp(request.param)
    for stage in ("data", "model", "sft", "rl", "merge", "evaluate"):
        run(stage, runs, "main", f"model={request.param}", *SHORT)
    return FAMILIES[request.param], RunFolder(runs / "demo" / "main")


def test_rollouts_are_those_of_the_policy_that_each_step_leaves(trained):
    _, folder = trained
    steps = [line["data"] for line in lines(folder.root / "rl" / "metrics.jsonl")]
    assert len(steps) == 2
    for step in steps:
        assert step["training/rollout_actor_probs_pearson_corr"] >= 0.999
        assert step["groups/effective"] > 0 and step["actor/grad_norm"] > 0
        assert all(math.isfinite(value) for value in step.values() if isinstance(value, float))
    for step in (1, 2):
        assert len(lines(folder.rollouts / f"{step}.jsonl")) == 8 * 4


def test_each_stage_trains_the_language_model_alone(trained):
    kind, folder = trained
    (checkpoint,) = (folder.root / "sft").glob("checkpoint-*")
    models = folder.root / "model", checkpoint, folder.root / "merged"
    assert all(f'"model_type": "{kind}"' in (model / "config.json").read_text() for model in models)
    weights = [load_file(model / "model.safetensors") for model in models]
    for before, after in zip(weights, weights[1:]):
        assert before.keys() == after.keys()
        changed = {name for name in before if not before[name].bfloat16().equal(after[name].bfloat16())}
        assert changed and not any("visual" in name for name in changed)


def test_every_question_is_answered(trained):
    _, folder = trained
    answers = lines(folder.root / "eval" / "test" / "rl" / "predictions.jsonl")
    assert len(answers) == 75
    assert {answer["finish_reason"] for answer in answers} <= {"stop", "length"}
    scored = [answer["option_probs"] for answer in answers if "option_probs" in answer]
    assert all(0 <= value <= 1 for options in scored for value in options.values())

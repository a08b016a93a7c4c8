"""Where a judge runs beside RL, and what it takes."""

from pathlib import Path

import pytest

from launch.compose import compose_recipe
from launch.engines.environment import policy_devices
from launch.engines.verl import config as verl
from launch.planning.fits import fits
from launch.planning.judge import verdicts
from launch.planning.show import rows
from launch.planning.sizes import ranks
from launch.recipe import Recipe
from launch.run import run_of
from rewards.errors import UserError
from rewards.judges.build import build

STUDY = ("experiment=videop2r", "judge.model=Qwen/Qwen3-32B")
HOSTED = ("cluster=node_8gpu", "judge.url=https://api.example.com/v1", "judge.weights_gb=null")


def composed(*overrides: str) -> Recipe:
    return compose_recipe([*STUDY, *overrides])[0]


def table(*overrides: str) -> str:
    return "\n".join(f"{what}: {how_much}" for what, how_much in rows(composed(*overrides), []))


def test_the_plan_names_the_judge_s_verdicts_hours_and_server():
    text = table()
    assert "Qwen/Qwen3-32B: at most 64 verdicts a step, 64,000 in RL" in text
    assert "judge's time: 0.814 h (0.213–7.24) of 4 GPUs" in text
    assert "CUDA_VISIBLE_DEVICES=4,5,6,7 vllm serve Qwen/Qwen3-32B --tensor-parallel-size=4" in text
    assert verdicts(composed("rl.judge_consistency=true")) == 128
    by_rule = compose_recipe(["experiment=videop2r", "judge=rules"])[0]
    assert verdicts(by_rule) == 0 and not [what for what, _ in rows(by_rule, []) if what.startswith("judge")]


def test_a_judge_on_gpus_that_rl_holds_is_doubtful_and_one_elsewhere_is_not():
    assert fits(composed())[1] == []
    (doubt,) = fits(composed("cluster=node_8gpu"))[1]
    assert "RL leaves the judge 0 GPUs" in doubt and "66 GB take 2" in doubt
    assert fits(composed(*HOSTED))[1] == [] and "api.example.com" in table(*HOSTED)
    assert "judge's time" not in table(*HOSTED)
    assert any("leaves the judge 1" in each for each in fits(composed("cluster.judge_gpus=1", "rl.group_size=7"))[1])


def test_rl_and_evaluation_leave_the_judge_its_gpus_and_sft_does_not(monkeypatch):
    recipe = composed()
    config = verl.render(run_of(recipe), "some/model", 1, Path("/scratch/ray"))
    assert config.trainer.n_gpus_per_node == ranks(recipe, "rl") == 4 and ranks(recipe, "sft") == 8
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert policy_devices(recipe) == {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8,9,10,11,12,13,14,15")
    assert policy_devices(recipe) == {"CUDA_VISIBLE_DEVICES": "8,9,10,11"}
    assert policy_devices(composed("cluster=node_8gpu")) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.judge_gpus=8"], "leave none for RL"),
        (["cluster.address=10.0.0.1:6379"], "the judge needs a machine of its own"),
        (["cluster.judge_gpus=2"], "multiple of 6 rank"),
    ],
)
def test_shares_of_a_node_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        composed(*overrides)


def test_the_size_of_a_judge_is_no_setting_of_its_client():
    assert build(composed().judge.model_dump()).endpoint.settings.model == "Qwen/Qwen3-32B"

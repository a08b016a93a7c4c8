"""verl's worker as it updates: what may not change, and what it may cost."""

import pytest
from pydantic import ValidationError

from launch.engines.verl.config import render
from launch.recipe import RecipeError
from launch.run import run_of


def test_several_updates_of_a_batch_need_the_old_log_probabilities(tiny_recipe):
    with pytest.raises((RecipeError, ValidationError), match="a batch has 2 updates"):
        tiny_recipe("rl.old_log_probs_every=5", "rl.global_batch_size=16")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("loss.rollout_correction={level: token, threshold: 2.0}", "rollout_correction weighs"),
        ("+rl.engine.algorithm.use_kl_in_reward=true", "use_kl_in_reward reads"),
        ("+rl.engine.actor_rollout_ref.actor.ppo_epochs=2", "ppo_epochs=2 makes several updates"),
    ],
)
def test_what_reads_old_log_probabilities_before_the_update_is_refused(tiny_recipe, override, why):
    render(run_of(tiny_recipe(override)), "model", total_steps=1)
    with pytest.raises(RecipeError, match=f"old_log_probs_every=5: .*{why}"):
        render(run_of(tiny_recipe(override, "rl.old_log_probs_every=5")), "model", total_steps=1)


def test_a_budget_of_tokens_holds_a_rollout(tiny_recipe):
    with pytest.raises((RecipeError, ValidationError), match="does not hold a rollout of .*, 320 tokens"):
        tiny_recipe("rl.micro_batch_tokens=300")
    actor = render(run_of(tiny_recipe("rl.micro_batch_tokens=640")), "model", total_steps=1).actor_rollout_ref.actor
    assert actor.use_dynamic_bsz and actor.ppo_max_token_len_per_gpu == 640

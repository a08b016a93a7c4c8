"""Every `loss=` in verl's hands is its paper's equation, and fits every `advantage=` or says why not."""

from pathlib import Path

import pytest
import torch

from launch.checks import check_advantage
from launch.engines.verl import config as verl
from launch.recipe import RECIPES, Named, RecipeError
from launch.run import run_of
from rewards.advantages import ESTIMATORS
from rewards.overlong import overlong

LOSSES = sorted(path.stem for path in (RECIPES / "loss").glob("*.yaml"))
TOKENS = torch.tensor([9, 4, 1, 6])


@pytest.fixture(scope="module")
def batch():
    """Old and new log-probabilities with large and small ratios, advantages, mask: (4, 9) each."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(9) < TOKENS.unsqueeze(1)
    old, new = (torch.randn(4, 9, generator=generator, dtype=torch.double) for _ in "on")
    return old, (old + 0.7 * new).requires_grad_(), torch.tensor([[1.5], [-2.0], [0.4], [-0.1]]).double() * mask, mask


def by_verl(recipe, old, new, advantages, mask, weights=None):
    """The loss of verl's own function under its own typed configuration of a recipe."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.utils.config import omega_conf_to_dataclass

    actor = omega_conf_to_dataclass(verl.render(run_of(recipe), "m", 4, Path("/scratch")).actor_rollout_ref.actor)
    actor.global_batch_info["loss_scale_factor"] = actor.loss_scale_factor
    given = {"response_mask": mask, "loss_agg_mode": actor.loss_agg_mode, "config": actor}
    function = get_policy_loss_fn(actor.policy_loss.loss_mode)
    return function(old, new, advantages, rollout_is_weights=weights, **given)[0]


def terms(loss, old, new, advantages):
    """(4, 9) objective of each token, by the papers' equations."""
    ratio = (new - old).exp()
    if loss.name == "gspo":  # equation 7
        ratio = torch.stack([(row[:n].mean()).exp() * torch.ones(9) for row, n in zip(new - old, TOKENS)])
    if loss.name == "sapo":  # equation 6
        tau = torch.where(advantages > 0, loss.tau_pos, loss.tau_neg)
        return torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages
    clipped = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    if loss.name == "cispo":  # equations 4 and 5
        return clipped.detach() * advantages * new
    found = torch.minimum(ratio * advantages, clipped * advantages)
    dual = getattr(loss, "dual_clip", None)
    return torch.where(advantages < 0, torch.maximum(found, dual * advantages), found) if dual else found


def objective(recipe, terms_BT):
    rows = [row[:n] for row, n in zip(terms_BT, TOKENS)]
    total = {
        "token_mean": lambda: torch.cat(rows).mean(),
        "response_mean": lambda: torch.stack([row.mean() for row in rows]).mean(),
        "constant": lambda: torch.stack([row.sum() for row in rows]).mean() / recipe.rl.max_response_length,
    }
    return total[recipe.loss.aggregation]()


@pytest.mark.parametrize("chosen", [*LOSSES, "grpo loss.aggregation=token_mean", "gspo loss.aggregation=constant"])
def test_a_loss_and_its_gradient_are_the_paper_s(tiny_recipe, batch, chosen):
    recipe, (old, new, advantages, mask) = tiny_recipe(*f"loss={chosen}".split()), batch
    theirs = by_verl(recipe, old, new, advantages, mask)
    ours = -objective(recipe, terms(recipe.loss, old, new, advantages))
    assert float(theirs) == pytest.approx(float(ours), abs=1e-6)
    gradients = [torch.autograd.grad(loss, new, retain_graph=True)[0] for loss in (theirs, ours)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_rollout_correction_truncates_the_ratio_of_actor_and_rollout(tiny_recipe, batch, level):
    from verl import DataProto
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch

    recipe = tiny_recipe(f"loss.rollout_correction={{level: {level}, threshold: 1.5}}")
    config = verl.render(run_of(recipe), "m", 4, Path("/scratch"))
    rollout, old, advantages, mask = batch[0], batch[1].detach(), *batch[2:]
    data = DataProto.from_dict({"old_log_probs": old, "rollout_log_probs": rollout, "response_mask": mask.long()})
    data, _ = compute_rollout_correction_and_add_to_batch(data, config.algorithm.rollout_correction)
    logs = (old - rollout) * mask
    ratio = (logs if level == "token" else logs.sum(1, keepdim=True).expand(-1, 9)).exp()
    weights = data.batch["rollout_is_weights"]
    torch.testing.assert_close(weights[mask], ratio.clamp(max=1.5)[mask], atol=1e-6, rtol=1e-6)
    loss = by_verl(recipe, old, old.clone(), advantages, mask, weights)
    assert float(loss) == pytest.approx(-float(objective(recipe, weights * advantages)), abs=1e-6)


def test_the_penalty_for_length_is_verl_s(tiny_recipe):
    takes = tiny_recipe("loss=dapo").overlong
    assert takes == {"limit": 64, "buffer": 13, "penalty": 1.0}  # a fifth of rl.max_response_length
    for tokens in range(1, 65):
        beyond = tokens - (64 - 13)  # reward_manager/dapo.py
        assert overlong(tokens, **takes) == min(-beyond / 13 * 1.0, 0)


REFUSED = {("pa_grpo", name) for name in ("camreasoner", "cispo", "dapo")} | {("gdpo", "dapo")}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_advantage_fits_every_loss_or_is_refused(tiny_recipe, loss):
    gdpo, own = tiny_recipe("advantage=gdpo", f"loss={loss}", "rl.filter.enabled=true"), tiny_recipe().reward
    segments = Named(name="videop2r")
    for name in ESTIMATORS:
        changed = {"advantage": gdpo.advantage if name == "gdpo" else Named(name=name)}
        recipe = gdpo.model_copy(update=changed | {"reward": segments if name == "pa_grpo" else own})
        if (name, loss) in REFUSED:
            with pytest.raises(RecipeError, match="loss.overlong|loss.aggregation=response_mean"):
                check_advantage(recipe)
        else:
            check_advantage(recipe)
    verl.check(verl.render(run_of(recipe), "m", 4, Path("/scratch")))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["loss.clip_low=1.5"], "loss.grpo.clip_low"),
        (["loss=sapo", "loss.aggregation=token_mean"], "loss.sapo.aggregation"),
        (["loss=gspo", "+loss.dual_clip=3"], "loss.gspo.dual_clip"),
        (["loss.name=ppo"], "loss.*'ppo'"),
        (["advantage=gdpo", "+advantage.weights.beauty=1"], "camreasoner has no beauty"),
    ],
)
def test_what_a_loss_does_not_have_is_refused_by_name(tiny_recipe, overrides, named):
    with pytest.raises(RecipeError, match=named):
        check_advantage(tiny_recipe(*overrides))

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.advantages import AdvantageError, Batch, build
from rewards.advantages.dr_grpo import DrGrpo
from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.gdpo import Gdpo
from rewards.advantages.grpo import Grpo
from rewards.advantages.pa_grpo import PaGrpo
from rewards.advantages.reinforce_pp import ReinforcePp
from rewards.advantages.rloo import Rloo
from rewards.errors import UserError


def one(estimator, scores, groups, tasks, judged=None):
    """(B,) advantages of one batch."""
    return estimator.advantages(Batch(scores, groups, tasks, judged)).response_B


FIRST = torch.tensor([1.0, 0.0, 1.0, 1.0])  # mean and mean square .75, deviation sqrt(3)/4
SECOND = torch.tensor([0.0, 0.0, 0.0, 1.0])  # .25
GROUP, TASK = ["g"] * 4, ["binary"] * 4


@st.composite
def batches(draw):
    """Scores, groups of two or more, and a task per group."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=5))
    score = st.sampled_from([0.0, 0.125, 0.5, 1.0, 1.125, -0.5])  # exact in binary: so are the means of equal ones
    scores = draw(st.lists(score, min_size=sum(sizes), max_size=sum(sizes)))
    groups = [f"g{index}" for index, size in enumerate(sizes) for _ in range(size)]
    tasks = [["binary", "choice"][int(group[1:]) % 2] for group in groups]
    return torch.tensor(scores), groups, tasks


VERL_S = {
    "grpo": (Grpo(eps=1e-6), "grpo", {"epsilon": 1e-6}),
    "dr_grpo": (DrGrpo(), "grpo", {"norm_adv_by_std_in_grpo": False}),
    "rloo": (Rloo(), "rloo", {}),
    "reinforce_pp": (ReinforcePp(), "reinforce_plus_plus", {}),
    "reinforce_pp_baseline": (ReinforcePp(group_baseline=True), "reinforce_plus_plus_baseline", {}),
}


def tokens_and_mask(groups):
    """(B,) lengths of responses, and their mask (B, 7)."""
    tokens = torch.tensor([2 + 3 * row % 6 for row in range(len(groups))])
    return tokens, (torch.arange(7) < tokens.unsqueeze(1)).double()


@settings(deadline=None)
@given(batches(), st.sampled_from(sorted(VERL_S)))
def test_an_estimator_is_verl_s_own(batch, name):
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    estimator, theirs_is, options = VERL_S[name]
    scores, groups, tasks = batch[0].double(), *batch[1:]
    tokens, mask = tokens_and_mask(groups)
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(scores)), tokens - 1] = scores
    function, config = get_adv_estimator_fn(theirs_is), AlgoConfig(gamma=1.0)
    theirs, _ = function(rewards, mask, index=np.array(groups), config=config, **options)
    ours = estimator.advantages(Batch(scores, groups, tasks, tokens_B=tokens))
    equal = (
        name.startswith("reinforce") and len(set(scores.tolist())) == 1
    )  # verl's 1e-8 beside counts, over no deviation
    torch.testing.assert_close(ours.tokens(mask), theirs, atol=1e-4 if equal else 1e-6, rtol=1e-6)


@settings(deadline=None)
@given(batches(), st.floats(0.125, 4.0))
def test_gdpo_is_verl_s_own(batch, weight):
    from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage

    scores, groups, tasks = batch
    tokens, mask = tokens_and_mask(groups)
    rows = [{"score": 0.0, "accuracy": float(s), "format": float(s > 0.2)} for s in scores]
    ours = Gdpo({"accuracy": 1.0, "format": weight}).advantages(Batch.of(rows, groups, tasks, tokens_B=tokens))
    parts = {name: np.array([row[name] for row in rows]) for name in ("accuracy", "format")}
    prompt = torch.ones(len(rows), 1)
    theirs, _ = compute_gdpo_outcome_advantage(
        torch.zeros_like(mask),
        mask,
        index=np.array(groups),
        config={"gdpo_reward_keys": list(parts), "gdpo_reward_weights": [1.0, weight]},
        non_tensor_batch=parts,
        batch={"prompts": prompt, "attention_mask": torch.cat([prompt, mask], 1).long()},
    )
    torch.testing.assert_close(ours.tokens(mask), theirs, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_gdpo_keeps_apart_what_one_sum_makes_equal():
    """Right without form and wrong with it earn one sum, but not one advantage where form is rarer."""
    rows = [{"score": 1.0, "accuracy": a, "format": f} for a, f in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.0))]
    batch = Batch.of(rows, GROUP, TASK)
    assert one(Grpo(), batch.scores_B, GROUP, TASK).tolist() == [0.0] * 4
    found = Gdpo({"accuracy": 1.0, "format": 0.5}).advantages(batch).response_B
    assert found[0] == found[2] == found[3] > 0 > found[1]


@pytest.mark.parametrize(("weights", "named"), [({}, "advantage.weights"), ({"colour": 1.0}, "weights.colour")])
def test_gdpo_names_a_weight_that_is_none(weights, named):
    with pytest.raises(UserError, match=named):
        Gdpo(weights).advantages(Batch.of([{"score": 1.0, "accuracy": 1.0}], ["g"], ["binary"]))


def test_grpo_gives_a_group_of_one_nothing():
    assert one(Grpo(), torch.tensor([1.0]), ["g"], ["binary"]).tolist() == [0.0]


def test_the_first_batch_is_scaled_by_itself():
    expected = [3**-0.5, -(3**0.5), 3**-0.5, 3**-0.5]
    for options in ({}, {"update": "after_scaling"}, {"bias_correction": True}):
        assert one(EmaGrpo(**options), FIRST, GROUP, TASK).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "sigma"),
    [
        ({}, (0.7 - 0.7**2) ** 0.5),  # .9 x .75 + .1 x .25 = .7
        ({"update": "after_scaling"}, (0.75 - 0.75**2) ** 0.5),
        # (.9 x .075 + .1 x .25) / (1 - .81) = .4868
        ({"bias_correction": True}, (0.0925 / 0.19 - (0.0925 / 0.19) ** 2) ** 0.5),
    ],
)
def test_the_second_batch(options, sigma):
    ema = EmaGrpo(decay=0.9, **options)
    one(ema, FIRST, GROUP, TASK)
    advantages = one(ema, SECOND, GROUP, TASK)
    assert advantages.tolist() == pytest.approx([-0.25 / sigma] * 3 + [0.75 / sigma], rel=1e-5)


def test_updating_after_scaling_takes_the_batch_in_for_the_next_one():
    before, after = EmaGrpo(decay=0.9), EmaGrpo(decay=0.9, update="after_scaling")
    for ema in (before, after):
        one(ema, FIRST, GROUP, TASK)
        one(ema, SECOND, GROUP, TASK)
    assert before.std("binary") == pytest.approx(after.std("binary"))


def test_tasks_keep_their_own_scale():
    ema = EmaGrpo()
    both = one(ema, torch.cat([FIRST, 10 * FIRST]), GROUP + ["h"] * 4, TASK + ["choice"] * 4)
    torch.testing.assert_close(both[:4], both[4:])
    assert ema.metrics() == {
        "ema/std/binary": ema.std("binary"),
        "ema/std/choice": ema.std("choice"),
        "ema/batch_std/binary": pytest.approx(3**0.5 / 4),
        "ema/batch_std/choice": pytest.approx(10 * 3**0.5 / 4),
        "ema/guard_hits": 0.0,
    }


def test_guard_rail_scales_a_group_by_its_own_deviation():
    sigma = (0.995 - 0.995**2) ** 0.5  # after a batch of ones, .99 x 1 + .01 x .5
    for guard, expected in ((5.0, 1.0), (None, 0.5 / sigma), (8.0, 0.5 / sigma)):
        ema = EmaGrpo(guard_abs_max=guard)
        one(ema, torch.ones(2), ["g"] * 2, ["binary"] * 2)
        advantages = one(ema, torch.tensor([1.0, 0.0]), ["g"] * 2, ["binary"] * 2)
        assert advantages.tolist() == pytest.approx([expected, -expected], rel=1e-3)


@pytest.mark.parametrize(
    ("accuracy", "filtered", "fires"), [(0.9, False, False), (0.985, False, True), (0.985, True, False)]
)
def test_the_guard_rail_waits_for_rare_mistakes_that_no_filter_drops(accuracy, filtered, fires):
    """With lambda = 0.1 the rewards are 0.1 and 1; below an accuracy of 0.968 no |A| reaches 5."""
    rng, estimator, hits = np.random.default_rng(1), EmaGrpo(), 0.0
    for _ in range(200):
        rewards = np.where(rng.random((128, 8)) < accuracy, 1.0, 0.1)
        if filtered:
            rewards = rewards[rewards.std(axis=1) > 0]
        scores = torch.tensor(rewards.ravel())
        estimator.advantages(Batch(scores, [str(i // 8) for i in range(len(scores))], ["binary"] * len(scores)))
        hits += estimator.metrics()["ema/guard_hits"]
    assert (hits > 0) == fires


def test_equal_rewards_give_no_advantage_and_min_std_no_infinity():
    ema = EmaGrpo(min_std=0.5, guard_abs_max=None)
    assert one(ema, torch.ones(4), GROUP, TASK).tolist() == [0.0] * 4
    assert ema.std("binary") == 0.5


@settings(deadline=None)
@given(batches(), batches(), batches(), st.sampled_from(["before_scaling", "after_scaling"]), st.booleans())
def test_a_resumed_estimator_continues_exactly(first, second, third, update, correction):
    unbroken = EmaGrpo(update=update, bias_correction=correction)
    one(unbroken, *first)
    one(unbroken, *second)
    resumed = EmaGrpo(update=update, bias_correction=correction)
    resumed.load_state_dict(json.loads(json.dumps(unbroken.state_dict())))
    assert torch.equal(one(resumed, *third), one(unbroken, *third))
    assert resumed.state_dict() == unbroken.state_dict()


@settings(deadline=None)
@given(batches(), st.randoms(use_true_random=False), st.sampled_from([Grpo, EmaGrpo, DrGrpo, Rloo, ReinforcePp]))
def test_the_order_of_rows_does_not_matter(batch, random, estimator):
    scores, groups, tasks = batch
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = scores[order], [groups[row] for row in order], [tasks[row] for row in order]
    torch.testing.assert_close(one(estimator(), *shuffled), one(estimator(), *batch)[order])


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"update": "never"}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(ValueError):
        EmaGrpo(**options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ppo"}, "advantage.name=ppo: choose from grpo, dr_grpo, rloo, reinforce_pp, gdpo, ema_grpo, pa_grpo"),
        ({"name": "grpo", "decay": 0.9}, "advantage.decay: unknown setting; grpo has eps"),
        ({"name": "ema_grpo", "decay": "slow"}, "advantage.decay='slow'"),
        ({"name": "ema_grpo", "decay": 2}, "decay 2.0"),
        ({"name": "ema_grpo", "update": "never"}, "advantage.update='never'"),
    ],
)
def test_wrong_settings_of_a_recipe_are_named(settings, message):
    with pytest.raises(AdvantageError, match=message):
        build(settings)


def test_pa_grpo_refuses_a_batch_without_rewards_per_segment():
    with pytest.raises(ValueError, match="videop2r"):
        PaGrpo().advantages(Batch(FIRST, GROUP, TASK))


def test_grpo_refuses_another_estimator_s_state():
    with pytest.raises(ValueError, match="binary"):
        Grpo().load_state_dict({"binary": [0.5, 0.5, 1]})


def test_guard_hits_are_counted():
    ema = EmaGrpo()
    one(ema, torch.ones(2), ["g"] * 2, ["binary"] * 2)
    one(ema, torch.tensor([1.0, 0.0, 1.0, 1.0]), ["g", "g", "h", "h"], ["binary"] * 4)
    assert ema.metrics()["ema/guard_hits"] == 1.0
    assert ema.metrics()["ema/batch_std/binary"] == pytest.approx(3**0.5 / 4)


@settings(deadline=None)
@given(batches(), st.data(), st.sampled_from([Grpo, EmaGrpo, DrGrpo, Rloo, ReinforcePp]))
def test_a_row_without_a_verdict_gets_nothing_and_moves_nobody(batch, data, estimator):
    scores, groups, tasks = batch
    judged = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    kept = [row for row, keep in enumerate(judged.tolist()) if keep]
    both = one(estimator(), scores, groups, tasks, judged)
    assert both[~judged].tolist() == [0.0] * int((~judged).sum())
    if kept:
        alone = one(estimator(), scores[kept], [groups[row] for row in kept], [tasks[row] for row in kept])
        torch.testing.assert_close(both[kept], alone)


# ---------------------------------------------------------------- PA-GRPO


def segment_batch(perception, reasoning, groups=GROUP, judged=None):
    tasks, tokens = ["binary"] * len(groups), torch.tensor([2, 1, 0, 3])
    return Batch(perception + reasoning, groups, tasks, judged, perception, reasoning, tokens)


def per_segment(estimator, *batch):
    """(A_perception (B,), A_reasoning (B,))."""
    advantages = estimator.advantages(segment_batch(*batch))
    return advantages.perception_B, advantages.response_B


PERCEPTION = torch.tensor([2.0, 1.0, 0.0, 1.0])  # mean 1, sample deviation sqrt(2/3)
REASONING = torch.tensor([1.0, 1.0, 1.0, 2.0])  # mean 5/4, sample deviation 1/2
# Perception is the first 2, 1, 0 and 3 tokens (the third response is malformed); the second response has padding.
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])


def test_equation_6():
    a_p, a_r = per_segment(PaGrpo(eps=0.0), PERCEPTION, REASONING)
    assert a_p.tolist() == pytest.approx([1.5**0.5, 0, -(1.5**0.5), 0])
    assert a_r.tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.5])


def test_each_advantage_goes_to_its_own_tokens():
    p, r = 1.5**0.5, -0.5
    advantages = PaGrpo(eps=0.0).advantages(segment_batch(PERCEPTION, REASONING)).tokens(MASK)
    expected = [[p, p, r, r], [0, r, r, 0], [r, r, r, r], [0, 0, 0, 1.5]]
    assert advantages.flatten().tolist() == pytest.approx(sum(expected, []))


def test_without_separation():
    pa = PaGrpo(eps=0.0, separate=False)
    advantages = pa.advantages(segment_batch(PERCEPTION, REASONING)).tokens(MASK)
    # sums 3, 2, 1, 3: mean 9/4, sample deviation sqrt(11/12)
    expected = [(value - 2.25) / (11 / 12) ** 0.5 for value in (3, 2, 1, 3)]
    for row, mask in enumerate(MASK.bool()):
        assert advantages[row][mask].tolist() == pytest.approx([expected[row]] * int(mask.sum()))
        assert advantages[row][~mask].tolist() == [0.0] * int((~mask).sum())
    assert set(pa.metrics()) == {"pa_grpo/collapsed/sum", "pa_grpo/unjudged"}


def equation_7(a_p, a_r, ratio, perception_tokens, tokens, epsilon=0.2):
    """The objective without its KL term, by loops: mean over responses, sum over segments, mean over tokens."""
    total = 0.0
    for i, (split, end) in enumerate(zip(perception_tokens, tokens)):
        for advantage, segment in ((a_p[i], ratio[i, :split]), (a_r[i], ratio[i, split:end])):
            terms = [min(r * advantage, min(max(r, 1 - epsilon), 1 + epsilon) * advantage) for r in segment.tolist()]
            total += sum(terms) / len(terms) if terms else 0.0
    return total / len(tokens)


@pytest.mark.parametrize(("weights", "is_equation_7"), [("segments", True), ("tokens", False)])
def test_the_engine_s_loss_is_equation_7_with_one_term_per_segment(weights, is_equation_7):
    from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
    from verl.workers.config import ActorConfig

    rng = np.random.default_rng(0)
    perception_tokens, tokens, groups = (
        [130, 2, 0, 300, 40, 128, 320, 90],
        [600, 30, 700, 620, 45, 900, 330, 180],
        ["g"] * 8,
    )
    rewards = {name: torch.tensor(rng.choice([0, 1, 2, 2.2], 8)) for name in ("perception_B", "reasoning_B")}
    batch = Batch(
        sum(rewards.values()), groups, ["choice"] * 8, **rewards, perception_tokens_B=torch.tensor(perception_tokens)
    )
    found = PaGrpo(eps=1e-4, weights=weights).advantages(batch)
    mask = (torch.arange(900) < torch.tensor(tokens).unsqueeze(1)).double()
    ratio = torch.tensor(rng.uniform(0.5, 2.0, (8, 900)))
    actor = ActorConfig(strategy="fsdp", rollout_n=8, ppo_mini_batch_size=8, ppo_micro_batch_size_per_gpu=1)
    given = torch.zeros(8, 900).double(), ratio.log(), found.weighted(mask), mask
    loss, _ = compute_policy_loss_vanilla(*given, loss_agg_mode="seq-mean-token-mean", config=actor)
    expected = equation_7(found.perception_B, found.response_B, ratio, perception_tokens, tokens)
    assert (float(loss) == pytest.approx(-float(expected), abs=1e-6)) == is_equation_7


def test_weights_in_the_loss_do_not_reach_what_is_recorded_or_one_advantage_for_all_tokens():
    batch = segment_batch(PERCEPTION, REASONING)
    assert torch.equal(
        PaGrpo().advantages(batch).tokens(MASK), PaGrpo(weights="tokens").advantages(batch).weighted(MASK)
    )
    joined = PaGrpo(separate=False).advantages(batch)
    assert torch.equal(joined.weighted(MASK), joined.tokens(MASK))
    with pytest.raises(AdvantageError, match="advantage.weights='words'"):
        build({"name": "pa_grpo", "weights": "words"})


def test_an_unjudged_perception_is_left_out_of_its_group():
    judged = torch.tensor([True, True, True, False])
    pa = PaGrpo(eps=0.0)
    a_p, a_r = per_segment(pa, PERCEPTION, REASONING, GROUP, judged)
    assert a_p.tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0])  # of 2, 1, 0 alone
    assert a_r.tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.5])
    assert pa.metrics()["pa_grpo/unjudged"] == 1.0
    a_p, a_r = per_segment(PaGrpo(eps=0.0, separate=False), PERCEPTION, REASONING, GROUP, judged)
    assert a_p.tolist() == a_r.tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0])


def test_zero_advantage_groups_are_counted_per_segment():
    pa = PaGrpo()
    per_segment(pa, torch.tensor([1.0, 1.0, 0.1, 0.1]), torch.tensor([1.0, 0.0, 0.7, 0.7]), ["g", "g", "h", "h"])
    assert pa.metrics() == {
        "pa_grpo/unjudged": 0.0,
        "pa_grpo/collapsed/perception": 1.0,
        "pa_grpo/collapsed/reasoning": 0.5,
    }
    assert pa.state_dict() == {}
    with pytest.raises(ValueError, match="keeps no state"):
        pa.load_state_dict({"binary": [0.5, 0.5, 1]})


@pytest.mark.parametrize("estimator", [Grpo(), EmaGrpo(), DrGrpo(), Rloo()])
def test_equal_rewards_differ_from_their_mean_by_exactly_nothing(estimator):
    """In single precision .1 + .1 + .1 is not 3 x .1, and what is left would be divided by eps."""
    scores = torch.tensor([0.1] * 3 + [0.7] * 7)
    assert one(estimator, scores, ["g"] * 3 + ["h"] * 7, ["binary"] * 10).tolist() == [0.0] * 10


def test_an_empty_batch():
    assert one(Grpo(), torch.zeros(0), [], []).shape == one(EmaGrpo(), torch.zeros(0), [], []).shape == (0,)

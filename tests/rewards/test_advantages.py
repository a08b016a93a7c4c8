import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.advantages import EmaGrpo, Grpo, PaGrpo

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


@settings(deadline=None)
@given(batches(), st.booleans())
def test_grpo_is_verl_s_own(batch, normalize):
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    scores, groups, tasks = batch
    rewards, mask = torch.zeros(len(scores), 3), torch.ones(len(scores), 3)
    rewards[:, -1] = scores
    theirs, _ = compute_grpo_outcome_advantage(
        rewards, mask, np.array(groups), epsilon=1e-6, norm_adv_by_std_in_grpo=normalize
    )
    ours = Grpo(eps=1e-6, normalize_std=normalize).advantages(scores, groups, tasks)
    torch.testing.assert_close(ours, theirs[:, 0], atol=1e-5, rtol=1e-5)


def test_grpo_gives_a_group_of_one_nothing():
    assert Grpo().advantages(torch.tensor([1.0]), ["g"], ["binary"]).tolist() == [0.0]


def test_the_first_batch_is_scaled_by_itself():
    expected = [3**-0.5, -(3**0.5), 3**-0.5, 3**-0.5]
    for options in ({}, {"update": "after_scaling"}, {"bias_correction": True}):
        assert EmaGrpo(**options).advantages(FIRST, GROUP, TASK).tolist() == pytest.approx(expected)


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
    ema.advantages(FIRST, GROUP, TASK)
    advantages = ema.advantages(SECOND, GROUP, TASK)
    assert advantages.tolist() == pytest.approx([-0.25 / sigma] * 3 + [0.75 / sigma], rel=1e-5)


def test_updating_after_scaling_takes_the_batch_in_for_the_next_one():
    before, after = EmaGrpo(decay=0.9), EmaGrpo(decay=0.9, update="after_scaling")
    for ema in (before, after):
        ema.advantages(FIRST, GROUP, TASK)
        ema.advantages(SECOND, GROUP, TASK)
    assert before.std("binary") == pytest.approx(after.std("binary"))


def test_tasks_keep_their_own_scale():
    ema = EmaGrpo()
    both = ema.advantages(torch.cat([FIRST, 10 * FIRST]), GROUP + ["h"] * 4, TASK + ["choice"] * 4)
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
        ema.advantages(torch.ones(2), ["g"] * 2, ["binary"] * 2)
        advantages = ema.advantages(torch.tensor([1.0, 0.0]), ["g"] * 2, ["binary"] * 2)
        assert advantages.tolist() == pytest.approx([expected, -expected], rel=1e-3)


def test_equal_rewards_give_no_advantage_and_min_std_no_infinity():
    ema = EmaGrpo(min_std=0.5, guard_abs_max=None)
    assert ema.advantages(torch.ones(4), GROUP, TASK).tolist() == [0.0] * 4
    assert ema.std("binary") == 0.5


@settings(deadline=None)
@given(batches(), batches(), batches(), st.sampled_from(["before_scaling", "after_scaling"]), st.booleans())
def test_a_resumed_estimator_goes_on_exactly(one, two, three, update, correction):
    unbroken = EmaGrpo(update=update, bias_correction=correction)
    unbroken.advantages(*one)
    unbroken.advantages(*two)
    resumed = EmaGrpo(update=update, bias_correction=correction)
    resumed.load_state_dict(json.loads(json.dumps(unbroken.state_dict())))
    assert torch.equal(resumed.advantages(*three), unbroken.advantages(*three))
    assert resumed.state_dict() == unbroken.state_dict()


@settings(deadline=None)
@given(batches(), st.randoms(use_true_random=False), st.sampled_from([Grpo, EmaGrpo]))
def test_the_order_of_rows_does_not_matter(batch, random, estimator):
    scores, groups, tasks = batch
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = scores[order], [groups[row] for row in order], [tasks[row] for row in order]
    torch.testing.assert_close(estimator().advantages(*shuffled), estimator().advantages(*batch)[order])


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"update": "never"}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(ValueError):
        EmaGrpo(**options)


def test_grpo_refuses_another_estimator_s_state():
    with pytest.raises(ValueError, match="binary"):
        Grpo().load_state_dict({"binary": [0.5, 0.5, 1]})


def test_guard_hits_are_counted():
    ema = EmaGrpo()
    ema.advantages(torch.ones(2), ["g"] * 2, ["binary"] * 2)
    ema.advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), ["g", "g", "h", "h"], ["binary"] * 4)
    assert ema.metrics()["ema/guard_hits"] == 1.0
    assert ema.metrics()["ema/batch_std/binary"] == pytest.approx(3**0.5 / 4)


@settings(deadline=None)
@given(batches(), st.data(), st.sampled_from([Grpo, EmaGrpo]))
def test_a_row_without_a_verdict_gets_nothing_and_moves_nobody(batch, data, estimator):
    scores, groups, tasks = batch
    judged = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    kept = [row for row, keep in enumerate(judged.tolist()) if keep]
    both = estimator().advantages(scores, groups, tasks, judged)
    assert both[~judged].tolist() == [0.0] * int((~judged).sum())
    if kept:
        alone = estimator().advantages(scores[kept], [groups[row] for row in kept], [tasks[row] for row in kept])
        torch.testing.assert_close(both[kept], alone)


# ---------------------------------------------------------------- PA-GRPO

PERCEPTION = torch.tensor([2.0, 1.0, 0.0, 1.0])  # mean 1, sample deviation sqrt(2/3)
REASONING = torch.tensor([1.0, 1.0, 1.0, 2.0])  # mean 5/4, sample deviation 1/2
SEEN = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
SAID = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]]).bool()  # the third is malformed


def test_equation_6():
    a_p, a_r = PaGrpo(eps=0.0).process_advantages(PERCEPTION, REASONING, GROUP)
    assert a_p.tolist() == pytest.approx([1.5**0.5, 0, -(1.5**0.5), 0])
    assert a_r.tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.5])


def test_each_advantage_goes_to_its_own_tokens():
    p, r = 1.5**0.5, -0.5
    advantages = PaGrpo(eps=0.0).token_advantages(PERCEPTION, REASONING, GROUP, SEEN, SAID)
    expected = [[p, p, r, r], [0, r, r, 0], [r, r, r, r], [0, 0, 0, 1.5]]
    assert advantages.flatten().tolist() == pytest.approx(sum(expected, []))


def test_without_separation():
    pa = PaGrpo(eps=0.0, separate=False)
    advantages = pa.token_advantages(PERCEPTION, REASONING, GROUP, SEEN, SAID)
    # sums 3, 2, 1, 3: mean 9/4, sample deviation sqrt(11/12)
    expected = [(value - 2.25) / (11 / 12) ** 0.5 for value in (3, 2, 1, 3)]
    for row, mask in enumerate(SEEN | SAID):
        assert advantages[row][mask].tolist() == pytest.approx([expected[row]] * int(mask.sum()))
        assert advantages[row][~mask].tolist() == [0.0] * int((~mask).sum())
    assert set(pa.metrics()) == {"pa_grpo/collapsed/sum", "pa_grpo/unjudged"}


def test_an_unjudged_perception_is_left_out_of_its_group():
    judged = torch.tensor([True, True, True, False])
    pa = PaGrpo(eps=0.0)
    a_p, a_r = pa.process_advantages(PERCEPTION, REASONING, GROUP, judged)
    assert a_p.tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0])  # of 2, 1, 0 alone
    assert a_r.tolist() == pytest.approx([-0.5, -0.5, -0.5, 1.5])
    assert pa.metrics()["pa_grpo/unjudged"] == 1.0
    a_p, a_r = PaGrpo(eps=0.0, separate=False).process_advantages(PERCEPTION, REASONING, GROUP, judged)
    assert a_p.tolist() == a_r.tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0])


def test_collapsed_groups_are_told_by_process():
    pa = PaGrpo()
    pa.process_advantages(torch.tensor([1.0, 1.0, 0.1, 0.1]), torch.tensor([1.0, 0.0, 0.7, 0.7]), ["g", "g", "h", "h"])
    assert pa.metrics() == {
        "pa_grpo/unjudged": 0.0,
        "pa_grpo/collapsed/perception": 1.0,
        "pa_grpo/collapsed/reasoning": 0.5,
    }
    assert pa.state_dict() == {}
    with pytest.raises(ValueError, match="keeps no state"):
        pa.load_state_dict({"binary": [0.5, 0.5, 1]})


@pytest.mark.parametrize("estimator", [Grpo(), EmaGrpo()])
def test_equal_rewards_differ_from_their_mean_by_exactly_nothing(estimator):
    """In single precision .1 + .1 + .1 is not 3 x .1, and what is left would be divided by eps."""
    scores = torch.tensor([0.1] * 3 + [0.7] * 7)
    assert estimator.advantages(scores, ["g"] * 3 + ["h"] * 7, ["binary"] * 10).tolist() == [0.0] * 10


def test_an_empty_batch():
    assert Grpo().advantages(torch.zeros(0), [], []).shape == EmaGrpo().advantages(torch.zeros(0), [], []).shape == (0,)

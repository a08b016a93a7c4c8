"""Every `advantage=` is its paper's equation, computed here once more, by loops over plain numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.advantages import ESTIMATORS, Batch
from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.gdpo import Gdpo
from rewards.advantages.pa_grpo import PaGrpo
from rewards.advantages.reinforce_pp import ReinforcePp

EPS, DECAY, FORMAT_WEIGHT = 1e-6, 0.9, 0.5
REWARD = st.sampled_from([0.0, 0.125, 0.5, 1.0, 1.125, 2.0])  # exact in binary: so are the means of equal ones


@st.composite
def rollouts(draw):
    """Of each response: its group, task, rewards by two components, and its number of tokens."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    row = st.tuples(REWARD, REWARD, st.integers(1, 7))
    return [(g, ("binary", "choice")[g % 2], *draw(row)) for g, size in enumerate(sizes) for _ in range(size)]


def mean(values):
    return sum(values) / len(values)


def deviation(values, free=1):
    return (sum((value - mean(values)) ** 2 for value in values) / (len(values) - free)) ** 0.5


def within_groups(rows, rewards, formula):
    """`formula(reward, the group's rewards)` of each response."""
    return [
        formula(r, [rewards[j] for j, other in enumerate(rows) if other[0] == row[0]]) for row, r in zip(rows, rewards)
    ]


def grpo(rows, rewards):  # arXiv 2402.03300, section 4.1.2
    return within_groups(rows, rewards, lambda r, group: (r - mean(group)) / (deviation(group) + EPS))


def dr_grpo(rows, rewards):  # arXiv 2503.20783, section 3.2
    return within_groups(rows, rewards, lambda r, group: r - mean(group))


def rloo(rows, rewards):  # arXiv 2402.14740, section 2.3
    return within_groups(rows, rewards, lambda r, group: r - (sum(group) - r) / (len(group) - 1))


def over_tokens(rows, rewards):
    """(R - mean) / deviation over all tokens of the batch, each of which has its response's reward."""
    spread = [r for row, r in zip(rows, rewards) for _ in range(row[4])]
    variance = sum((r - mean(spread)) ** 2 for r in spread) / max(len(spread) - 1, 1)
    return [(r - mean(spread)) / (variance + 1e-8) ** 0.5 for r in rewards]  # 1e-8: verl's


def gdpo(rows, accuracy, form):  # arXiv 2601.05242, equations 4, 7 and 6
    parts = zip(grpo(rows, accuracy), grpo(rows, form))
    return over_tokens(rows, [a + FORMAT_WEIGHT * f for a, f in parts])


def ema_grpo(rows, rewards, averages):  # CamReasoner, equation 5
    for task in {row[1] for row in rows}:
        own = [r for row, r in zip(rows, rewards) if row[1] == task]
        now = (mean(own), mean([r**2 for r in own]))
        before = averages.get(task, now)
        averages[task] = [DECAY * old + (1 - DECAY) * new for old, new in zip(before, now)]
    centred = dr_grpo(rows, rewards)
    sigma = {task: max(square - first**2, 1e-6) ** 0.5 for task, (first, square) in averages.items()}
    return [value / sigma[row[1]] for row, value in zip(rows, centred)]


def batch_of(rows):
    columns = [torch.tensor(column, dtype=torch.double) for column in list(zip(*rows))[2:4]]
    return Batch(
        columns[0],
        [f"g{row[0]}" for row in rows],
        [row[1] for row in rows],
        perception_B=columns[0],
        reasoning_B=columns[1],
        perception_tokens_B=torch.tensor([row[4] // 2 for row in rows]),
        tokens_B=torch.tensor([row[4] for row in rows]),
        components={"accuracy": columns[0], "format": columns[1]},
    )


EQUATIONS = {
    "grpo": (ESTIMATORS["grpo"](), lambda rows, a, b: grpo(rows, a)),
    "dr_grpo": (ESTIMATORS["dr_grpo"](), lambda rows, a, b: dr_grpo(rows, a)),
    "rloo": (ESTIMATORS["rloo"](), lambda rows, a, b: rloo(rows, a)),
    "reinforce_pp": (ReinforcePp(), lambda rows, a, b: over_tokens(rows, a)),
    "reinforce_pp with baseline": (
        ReinforcePp(group_baseline=True),
        lambda rows, a, b: over_tokens(rows, dr_grpo(rows, a)),
    ),
    "gdpo": (Gdpo({"accuracy": 1.0, "format": FORMAT_WEIGHT}, eps=EPS), gdpo),
    "pa_grpo": (PaGrpo(eps=EPS), lambda rows, a, b: grpo(rows, b)),  # of reasoning; VideoP2R, equation 6
}


@pytest.mark.parametrize("name", EQUATIONS)
@settings(deadline=None)
@given(rows=rollouts())
def test_an_advantage_is_its_paper_s_equation(name, rows):
    estimator, equation = EQUATIONS[name]
    found = estimator.advantages(batch_of(rows))
    _, _, accuracy, form, _ = map(list, zip(*rows))
    assert found.response_B.tolist() == pytest.approx(equation(rows, accuracy, form), abs=1e-6)
    if name == "pa_grpo":
        assert found.perception_B.tolist() == pytest.approx(grpo(rows, accuracy), abs=1e-6)


@settings(deadline=None)
@given(st.lists(rollouts(), min_size=1, max_size=3))
def test_the_moving_deviation_is_camreasoner_s_equation_5(steps):
    estimator, averages = EmaGrpo(decay=DECAY, guard_abs_max=None), {}
    for rows in steps:
        expected = ema_grpo(rows, [row[2] for row in rows], averages)
        assert estimator.advantages(batch_of(rows)).response_B.tolist() == pytest.approx(expected, abs=1e-6)


def test_no_advantage_lacks_its_equation():
    assert ESTIMATORS.keys() == {name.split()[0] for name in EQUATIONS} | {"ema_grpo"}

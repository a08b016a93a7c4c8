"""T-GRPO's temporal reward against its equations (arXiv 2503.21776)."""

import pytest

from rewards.temporal import temporal

ALPHA, MU = 0.3, 0.8


@pytest.mark.parametrize(
    ("right", "shuffled", "earned"),
    [
        (4, 0.5, True),  # 0.5 in order
        (4, 0.625, True),  # 0.5 >= 0.8 * 0.625, the bound itself
        (4, 0.75, False),  # 0.5 < 0.6
        (1, 0.0, True),
        (8, 1.0, True),
        (6, 1.0, False),  # 0.75 < 0.8
        (7, 1.0, True),
    ],
)
def test_right_answers_earn_alpha_where_the_order_of_frames_does_not_hurt(right, shuffled, earned):
    rewards = [1.0] * right + [0.0] * (8 - right)
    found = [reward + ALPHA * extra for reward, extra in zip(rewards, temporal(rewards, shuffled, MU))]
    assert found == [1.3 if earned else 1.0] * right + [0.0] * (8 - right)


def test_no_right_answer_earns_nothing_also_where_both_are_wrong():
    assert temporal([0.0] * 4, 0.0, MU) == [0.0] * 4


def test_graded_answers_count_as_right_above_a_tenth_as_in_the_published_code():
    assert temporal([0.1, 0.11, 0.9], 0.2, MU) == [0.0, 1.0, 1.0]
    assert temporal([0.1, 0.11, 0.0], 0.2, MU) == [0.0, 0.0, 0.0]  # 0.07 < 0.16

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.camreasoner import reward

SAMPLE = {"answer": "B", "options": ["No", "Yes"], "task": "binary"}


def respond(answer: str) -> str:
    return f"<observation>o</observation><think>t</think><answer>{answer}</answer>"


RIGHT, WRONG, MALFORMED = respond("B"), respond("A"), "<answer>B</answer>"


@pytest.mark.parametrize(
    ("settings", "scores"),  # right, wrong, malformed
    [
        ({}, (1.0, 0.1, 0.0)),
        ({"format_weight": 0.5}, (1.0, 0.5, 0.0)),
        ({"formula": "additive"}, (1.1, 0.1, 0.0)),
        ({"wrong_penalty": 0.5}, (1.0, 0.1 - 0.9 * 0.5, 0.0)),
        ({"wrong_penalty": 0.5, "formula": "additive"}, (1.1, 0.1 - 0.5, 0.0)),
    ],
)
def test_equation_3(settings, scores):
    assert [reward(text, SAMPLE, **settings)["score"] for text in (RIGHT, WRONG, MALFORMED)] == pytest.approx(scores)


def test_components():
    assert reward(RIGHT, SAMPLE) == {"score": pytest.approx(1.0), "accuracy": 1.0, "format": 1.0}
    assert reward(WRONG, SAMPLE, wrong_penalty=1.0)["accuracy"] == 0.0  # the penalty moves the score, not the metric


def test_a_right_letter_in_a_malformed_response_earns_nothing():
    for text in (MALFORMED, RIGHT + RIGHT, "B", ""):
        assert reward(text, SAMPLE) == {"score": 0.0, "accuracy": 0.0, "format": 0.0}


@given(st.sampled_from([RIGHT, WRONG, MALFORMED]), st.floats(0, 0.99), st.floats(0, 2, allow_subnormal=False))
def test_the_two_formulas_are_one_family(text, weight, penalty):
    interpolated = reward(text, SAMPLE, format_weight=weight, wrong_penalty=penalty)
    additive = reward(text, SAMPLE, format_weight=weight / (1 - weight), wrong_penalty=penalty, formula="additive")
    assert interpolated["score"] == pytest.approx((1 - weight) * additive["score"], abs=1e-9)


@given(st.text())
def test_no_response_raises(text):
    assert reward(text, SAMPLE)["score"] == 0.0
    assert reward(respond(text), SAMPLE)["format"] in (0.0, 1.0)


def test_wrong_settings_and_samples_raise():
    with pytest.raises(ValueError, match="formula"):
        reward(RIGHT, SAMPLE, formula="other")
    with pytest.raises(ValueError, match="gold"):
        reward(RIGHT, SAMPLE | {"answer": "Z"})

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.camreasoner import reward as parsed_reward
from rewards.response import parse

SAMPLE = {"answer": "B", "options": ["No", "Yes"], "task": "binary"}


def respond(answer: str) -> str:
    return f"<observation>o</observation><think>t</think><answer>{answer}</answer>"


def reward(text: str, sample: dict, **settings) -> dict[str, float]:
    return parsed_reward(parse(text), sample, **settings)


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


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_observation_is_rewarded_where_the_motion_is_known(weight):
    def said(observation: str) -> str:
        return f"<observation>{observation}</observation><think>t</think><answer>No</answer>"

    known = SAMPLE | {"extras": {"motion": "truck_left"}}
    for observation, share in (("slides right, near more than far", 1.0), ("slides right", 0.5), ("grows", 0.0)):
        scored = reward(said(observation), known, fidelity_weight=weight)
        assert scored["fidelity"] == share and scored["motion_known"] == 1.0
        assert scored["score"] == pytest.approx((1 - weight) * 0.1 + weight * share)
    assert reward(MALFORMED, known, fidelity_weight=weight)["score"] == 0.0
    unknown = reward(said("grows"), SAMPLE, fidelity_weight=weight)
    assert unknown["motion_known"] == 0.0 and unknown["score"] == pytest.approx(0.1)
    assert reward(said("grows"), known) == reward(said("grows"), SAMPLE)  # 0: the paper's


def test_a_weight_is_a_share():
    from rewards.scorer import RewardError, Scorer

    with pytest.raises(RewardError, match=r"reward\.fidelity_weight=1\.5"):
        Scorer({"name": "camreasoner", "fidelity_weight": 1.5})

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judge import UNJUDGED, JudgeError, RuleJudge
from rewards.motions import observation
from rewards.videop2r import COMPONENTS, reward

SAMPLE = {"id": "s", "task": "choice", "options": ["pan left", "static"], "answer": "A", "spans": [], "boxes": []}
LENGTHS = {"perception": 200, "reasoning": 400}  # both within


class Says:
    """A judge with one verdict, which remembers what it was shown."""

    def __init__(self, verdict):
        self.verdict, self.shown = verdict, []

    async def answer_from_text(self, text, sample):
        self.shown.append(text)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def respond(answer="A", seen="o"):
    return f"<observation>{seen}</observation><think>t</think><answer>{answer}</answer>"


def score(text, verdict="A", lengths=LENGTHS, **settings):
    return asyncio.run(reward(text, SAMPLE, judge=Says(verdict), lengths=lengths, **settings))


@pytest.mark.parametrize(
    ("answer", "verdict", "lengths", "perception", "reasoning"),
    [
        ("A", "A", LENGTHS, 2.2, 2.2),  # 1 + 1 + .2 each
        ("A", None, LENGTHS, 1.0, 2.2),  # not sufficient: format alone
        ("A", "B", LENGTHS, 1.0, 2.2),  # sufficient for a wrong answer
        ("B", "A", LENGTHS, 2.2, 1.0),
        ("A", "A", {"perception": 128, "reasoning": 320}, 2.2, 2.2),  # bounds are inside
        ("A", "A", {"perception": 320, "reasoning": 512}, 2.2, 2.2),
        ("A", "A", {"perception": 127, "reasoning": 513}, 2.0, 2.0),
        ("A", "A", {"perception": 321, "reasoning": 319}, 2.0, 2.0),
    ],
)
def test_equation_5(answer, verdict, lengths, perception, reasoning):
    components = score(respond(answer), verdict, lengths)
    assert (components["perception"], components["reasoning"]) == pytest.approx((perception, reasoning))
    assert components["score"] == pytest.approx(perception + reasoning)
    assert set(components) == set(COMPONENTS) and components["unjudged"] == 0.0


def test_components():
    parts = score(respond("B"))
    assert (parts["perception_accuracy"], parts["perception_format"], parts["perception_length"]) == (1.0, 1.0, 0.2)
    assert (parts["accuracy"], parts["format"], parts["reasoning_length"]) == (0.0, 1.0, 0.0)
    assert (parts["perception_tokens"], parts["reasoning_tokens"]) == (200.0, 400.0)


def test_the_judge_sees_the_observation_alone_and_no_malformed_response():
    judge = Says("A")
    asyncio.run(reward(respond("B", "it slides"), SAMPLE, judge=judge, lengths=LENGTHS))
    asyncio.run(reward(respond("B")[:-3], SAMPLE, judge=judge, lengths=LENGTHS))
    assert judge.shown == ["it slides"]


def test_a_malformed_response_earns_nothing():
    components = score(respond()[:-3])
    tokens = {"perception_tokens": 200.0, "reasoning_tokens": 400.0}
    assert components == dict.fromkeys(COMPONENTS, 0.0) | tokens


def test_no_verdict_is_marked_or_an_error_and_never_a_silent_zero():
    components = score(respond(), UNJUDGED)
    assert components["unjudged"] == 1.0 and components["reasoning"] == pytest.approx(2.2)
    with pytest.raises(JudgeError, match="server"):
        score(respond(), JudgeError("no server"))


def test_an_answer_that_is_right_in_part_is_sufficient_from_a_setting_on():
    sample = SAMPLE | {"task": "regression", "options": [], "answer": "4"}  # 5 is worth .5
    for sufficient, expected in ((0.5, 1.0), (0.6, 0.0)):
        text = respond("4")
        done = reward(text, sample, judge=Says("5"), lengths=LENGTHS, sufficient=sufficient)
        assert asyncio.run(done)["perception_accuracy"] == expected


def test_lengths_are_asked_for_where_they_are_rewarded():
    with pytest.raises(ValueError, match="lengths"):
        score(respond(), lengths=None)
    assert score(respond(), lengths=None, length_reward=0.0)["score"] == 4.0


def test_one_reward_alone_is_the_ablation_without_the_other():
    told = {name: score(respond(), length_reward=0.0, score=name) for name in ("both", "perception", "reasoning")}
    wrong = score(respond("B"), "B", length_reward=0.0, score="perception")
    assert {name: parts["score"] for name, parts in told.items()} == {"both": 4.0, "perception": 2.0, "reasoning": 2.0}
    assert (wrong["score"], wrong["reasoning"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="score=all"):
        score(respond(), score="all")


def test_with_the_judge_of_rendered_clips():
    for motion, expected in (("pan_left", 1.0), ("truck_left", 0.0)):
        done = reward(respond(seen=observation(motion)), SAMPLE, judge=RuleJudge(), lengths=LENGTHS)
        assert asyncio.run(done)["perception_accuracy"] == expected


@given(st.text(), st.text(), st.sampled_from(["A", "B", None, UNJUDGED, "", "\x00"]), st.integers(0, 10**9))
def test_no_response_earns_more_than_a_right_one(text, answer, verdict, tokens):
    for response in (text, respond(answer), text.join(respond().partition("<think>"))):
        components = score(response, verdict, {"perception": tokens, "reasoning": tokens})
        assert 0.0 <= components["score"] <= 4.4 + 1e-9
        assert components["format"] or not any(components[name] for name in COMPONENTS if "tokens" not in name)

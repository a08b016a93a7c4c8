import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judges.protocol import UNJUDGED, JudgeError
from rewards.judges.rules import RuleJudge
from rewards.motions import observation
from rewards.response import parse
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

    async def supports(self, text, sample):
        self.shown.append((text, sample["answer"]))
        return self.verdict


def respond(answer="A", seen="o"):
    return f"<observation>{seen}</observation><think>t</think><answer>{answer}</answer>"


def score(text, verdict="A", lengths=LENGTHS, **settings):
    return asyncio.run(reward(parse(text), SAMPLE, judge=Says(verdict), lengths=lengths, **settings))


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
    asyncio.run(reward(parse(respond("B", "it slides")), SAMPLE, judge=judge, lengths=LENGTHS))
    asyncio.run(reward(parse(respond("B")[:-3]), SAMPLE, judge=judge, lengths=LENGTHS))
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
    sample = SAMPLE | {"task": "regression", "options": [], "answer": "4"}  # 5 is worth .75
    for sufficient, expected in ((0.75, 1.0), (0.8, 0.0)):
        text = parse(respond("4"))
        done = reward(text, sample, judge=Says("5"), lengths=LENGTHS, sufficient=sufficient)
        assert asyncio.run(done)["perception_accuracy"] == expected


@pytest.mark.parametrize(
    ("task", "gold", "says", "right"),
    [
        ("regression", "2.5", ["2.5 meters", "About 2.5 m.", "2", "**2.5**"], True),
        ("regression", "2.5", ["between 2 and 3 meters", "5 meters", "unclear"], False),
        ("numerical", "4", ["4 red cubes", "There are four.", "four", "4.", "+4 of them"], True),
        ("numerical", "4", ["forty", "4 of 5", "three", "14"], False),
        ("numerical", "1250.5", ["1,250.5 km"], True),
        ("numerical", "-3", ["-3 degrees"], True),
        ("numerical", "25", ["twenty-five cars", "Twenty five"], True),
        ("ocr", "STOP", ["The sign reads STOP", "stop", '"STOP"'], True),
        ("ocr", "Mind the gap", ['"Mind the gap"', "It says: Mind the gap."], True),
        ("ocr", "STOP", ["The sign reads GO", "STOPPED", ""], False),
        ("ocr", "出口", ["标志上写着出口"], True),
        ("choice", "A", ["A"], True),
        ("choice", "A", ["B"], False),
    ],
)
def test_a_judge_s_verdict_does_not_depend_on_its_phrasing(task, gold, says, right):
    sample = SAMPLE | {"task": task, "answer": gold, "options": SAMPLE["options"] if task == "choice" else []}
    response = parse(respond(gold))
    for answer in says:
        components = asyncio.run(reward(response, sample, judge=Says(answer), lengths=LENGTHS))
        assert components["perception_accuracy"] == float(right), answer


def test_the_judge_is_shown_the_right_answer_where_the_recipe_says_so():
    opened = SAMPLE | {"task": "open_ended", "answer": "The man opens the door", "options": []}

    def shown(sample, **settings):
        judge = Says(True if settings.get("show_answer") == "always" else "A")
        done = reward(parse(respond(seen="seen")), sample, judge=judge, lengths=LENGTHS, **settings)
        return asyncio.run(done)["perception_accuracy"], judge.shown

    assert shown(SAMPLE) == (1.0, ["seen"])
    assert shown(SAMPLE, show_answer="always") == (1.0, [("seen", "A")])
    assert shown(opened)[1] == [("seen", "The man opens the door")]  # "He opens a door" is right, by no rule
    assert shown(opened, show_answer="never")[1] == ["seen"]
    judge = Says(UNJUDGED)
    done = reward(parse(respond()), SAMPLE, judge=judge, lengths=LENGTHS, show_answer="always")
    assert asyncio.run(done)["unjudged"] == 1.0


def test_accuracies_are_those_of_video_r1_s_training_code():
    def worth(task, gold, answer, **settings):
        sample = SAMPLE | {"task": task, "answer": gold, "options": []}
        done = reward(parse(respond(answer)), sample, judge=Says(None), lengths=LENGTHS, stemmer=True, **settings)
        return asyncio.run(done)["accuracy"]

    assert worth("open_ended", "The man opens the door", "a man opened doors") == pytest.approx(0.540, abs=5e-4)
    assert (worth("regression", "4", "5"), worth("regression", "4", "0.5")) == (0.75, 0.125)
    assert (worth("regression", "0", "0"), worth("regression", "0", "0.1")) == (1.0, 0.0)
    assert worth("regression", "4", "5", regression="mra") == 0.5


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
        done = reward(parse(respond(seen=observation(motion))), SAMPLE, judge=RuleJudge(), lengths=LENGTHS)
        assert asyncio.run(done)["perception_accuracy"] == expected


@given(st.text(), st.text(), st.sampled_from(["A", "B", None, UNJUDGED, "", "\x00"]), st.integers(0, 10**9))
def test_no_response_earns_more_than_a_right_one(text, answer, verdict, tokens):
    for response in (text, respond(answer), text.join(respond().partition("<think>"))):
        components = score(response, verdict, {"perception": tokens, "reasoning": tokens})
        assert 0.0 <= components["score"] <= 4.4 + 1e-9
        assert components["format"] or not any(components[name] for name in COMPONENTS if "tokens" not in name)


def test_open_answers_are_compared_by_stems_where_the_recipe_says_so():
    sample = {**SAMPLE, "task": "open_ended", "options": [], "answer": "moving boxes"}
    settings = {"judge": Says("moved box"), "length_reward": 0}
    for stemmer, worth in ((False, 0.0), (True, 1.0)):
        scored = asyncio.run(reward(parse(respond("moved box")), sample, **settings, stemmer=stemmer))
        assert scored["accuracy"] == worth

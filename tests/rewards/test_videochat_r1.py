import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judges.protocol import UNJUDGED, JudgeError
from rewards.response import parse
from rewards.videochat_r1 import reward, schema

BLANK = {"id": "s", "answer": "", "options": [], "spans": [], "boxes": [], "events": []}
TEMPORAL = BLANK | {"task": "temporal_grounding", "spans": [[5.0, 10.0]]}
TRACKING = BLANK | {"task": "tracking", "boxes": [[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0]]}
CHOICE = BLANK | {"task": "choice", "options": ["clap", "sit"], "answer": "A"}
QUALITY = CHOICE | {"task": "quality"}
GROUNDED = CHOICE | {"task": "grounded_qa", "spans": [[1.0, 3.0], [5.0, 6.0]]}
CAPTION = BLANK | {"task": "caption", "events": ["a", "b", "c", "d"]}


class Entails:
    def __init__(self, verdicts):
        self.verdicts = verdicts

    async def entailed(self, statements, text):
        return self.verdicts


def score(text, sample, judge=None, **settings):
    return asyncio.run(reward(parse(text, schema(sample["task"], **settings)), sample, judge=judge))


def think(answer, glue=None):
    return f"<think>t</think><answer>{answer}</answer>" + (f"<glue>{glue}</glue>" if glue else "")


@pytest.mark.parametrize(
    ("sample", "text", "expected"),
    [
        (TEMPORAL, think("5 to 10"), 2.0),  # R_st = format + IoU
        (TEMPORAL, think("7.5 to 12.5"), 1 + 1 / 3),
        (TEMPORAL, think("10 to 5"), 1.0),
        (TEMPORAL, "5 to 10", 0.0),
        (TRACKING, think("[[0, 0, 2, 2], [0, 0, 2, 2]]"), 1 + (1 + 1 / 7) / 2),
        (TRACKING, think("[[9, 9, 10, 10], [9, 9, 10, 10]]"), 1.0),
        (TRACKING, think("[[0, 0, 2, 2]]"), 0.0),  # a box is missing: malformed
        (TRACKING, think('{"boxes": {"2": [1, 1, 3, 3]}}'), 0.0),
        (TRACKING, think("[[0, 0, 2, 2], [1, 1, 3]]"), 0.0),
        (TRACKING, think("it moves to the left"), 0.0),
        (CHOICE, think("A"), 2.0),  # R_qa = format + accuracy
        (CHOICE, think("B"), 1.0),
        (CHOICE, "<answer>A</answer>", 0.0),  # another schema
        (QUALITY, think("clap"), 2.0),
        (GROUNDED, think("A", "[(1, 3), (5, 6)]"), 3.0),  # R_gqa = format + IoU + accuracy
        (GROUNDED, think("B", "[(2, 6)]"), 1 + 2 / 5),
        (GROUNDED, think("A", "[(8, 9)]"), 2.0),
        (GROUNDED, think("A", "around noon"), 0.0),  # no spans: malformed
        (GROUNDED, think("A"), 0.0),
    ],
)
def test_rewards_by_task(sample, text, expected):
    components = score(text, sample)
    assert components["score"] == pytest.approx(expected)
    assert components["score"] == components["format"] + components["accuracy"] + components["glue_iou"]


def test_a_caption_is_worth_its_events():  # R_cap = format + recall
    components = score(think("c"), CAPTION, judge=Entails([True, False, True, True]))
    assert components == {"score": 1.75, "format": 1.0, "accuracy": 0.75, "glue_iou": 0.0}
    assert score("c", CAPTION, judge=Entails([True] * 4))["score"] == 0.0


def test_a_caption_without_a_verdict_is_an_error():
    with pytest.raises(ValueError, match="judge"):
        score(think("c"), CAPTION)
    with pytest.raises(JudgeError, match="'s'"):
        score(think("c"), CAPTION, judge=Entails(UNJUDGED))


def test_without_thinking():
    assert score("<answer>A</answer>", CHOICE, prompt="direct")["score"] == 2.0
    assert score(think("A"), CHOICE, prompt="direct")["score"] == 0.0
    assert score("<answer>A</answer><glue>[(1, 3), (5, 6)]</glue>", GROUNDED, prompt="direct")["score"] == 3.0


@given(st.text(), st.text(), st.sampled_from([TEMPORAL, TRACKING, CHOICE, QUALITY, GROUNDED]))
def test_no_response_earns_more_than_a_right_one(text, glue, sample):
    most = 3.0 if sample is GROUNDED else 2.0
    for response in (text, think(text), think(text, glue), think("A", text or "x")):
        components = score(response, sample)
        assert 0.0 <= components["score"] <= most
        assert components["format"] or components["score"] == 0.0

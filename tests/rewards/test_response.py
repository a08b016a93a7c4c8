import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.response import SCHEMAS, TAG, parse

GOOD = "<observation>Near things slide right.</observation>\n<think>So it trucks left.</think>\n<answer>A</answer>"


def test_texts_and_spans_of_a_well_formed_response():
    parsed = parse(GOOD)
    assert parsed.ok and parsed.error is None
    assert (parsed.observation, parsed.think, parsed.answer) == ("Near things slide right.", "So it trucks left.", "A")
    assert {tag: GOOD[start:end] for tag, (start, end) in parsed.spans.items()} == parsed.parts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing <observation>"),
        ("A", "missing <observation>"),  # R3: a bare letter
        ("<observation></observation><think>t</think><answer>A</answer>", "empty <observation>"),  # R4
        ("<observation>o</observation><think> \n</think><answer>A</answer>", "empty <think>"),
        ("<observation>o</observation><think>t</think><think>t</think><answer>A</answer>", "repeated <think>"),
        ("<observation>o</observation><think>t</think><answer>A</answer><answer>B</answer>", "repeated <answer>"),
        ("<observation>o</observation></observation><think>t</think><answer>A</answer>", "repeated </observation>"),
        # R5: the answer inside of the observation
        ("<observation><answer>A</answer></observation><think>t</think><answer>B</answer>", "repeated <answer>"),
        ("<observation>o<think>t</think></observation><answer>A</answer>", "out of order"),
        ("<think>t</think><observation>o</observation><answer>A</answer>", "out of order"),
        ("<observation>o</observation>< / think >t</think><answer>A</answer>", "missing <think>"),  # R6
        ("Sure! " + GOOD, "text outside"),
        (GOOD + " Done.", "text outside"),
        (GOOD.replace("\n", " then "), "text outside"),
        (GOOD[:-4], "missing </answer>"),
        (GOOD.replace("think", "THINK"), "missing <think>"),
    ],
)
def test_malformed_responses_name_their_fault(text, reason):
    parsed = parse(text)
    assert not parsed.ok and reason in parsed.error
    assert parsed.answer is None and not parsed.spans


def test_signs_within_the_texts_are_left_alone():  # R6
    parsed = parse("<observation>3 / 4 of a < b </observation><think>x > y</think><answer> A </answer>")
    assert parsed.parts == {"observation": "3 / 4 of a < b", "think": "x > y", "answer": "A"}


def test_schemas_share_the_parser():
    assert parse("<think>t</think><answer>B</answer>", "think_answer").answer == "B"
    assert not parse(GOOD, "think_answer").ok
    with pytest.raises(KeyError):
        parse(GOOD, "no such schema")


TAGS = [f"<{closing}{tag}>" for tag in SCHEMAS["ota"] for closing in ("", "/")]
WORDS = st.text().filter(lambda text: text.strip() and not TAG.search(text))


@given(st.lists(st.one_of(st.sampled_from(TAGS), st.text())).map("".join))
def test_any_text_is_parsed_without_an_error(text):
    parsed = parse(text)
    assert parsed.ok == (parsed.error is None) == bool(parsed.parts)


@given(WORDS, WORDS, WORDS, st.sampled_from(["", " ", "\n\n\t"]))
def test_what_is_built_is_read_back(observation, think, answer, between):
    texts = {"observation": observation, "think": think, "answer": answer}
    response = between.join(f"<{tag}>{text}</{tag}>" for tag, text in texts.items())
    parsed = parse(response)
    assert parsed.ok
    assert {tag: response[start:end] for tag, (start, end) in parsed.spans.items()} == texts
    assert parsed.parts == {tag: text.strip() for tag, text in texts.items()}


def test_a_megabyte_of_tags():
    assert parse("<think>" * 150_000).error == "repeated <think>"
    assert parse("".join(TAGS) * 30_000).error.startswith("repeated")
    assert parse(GOOD.replace("Near", "<b>" * 300_000)).ok

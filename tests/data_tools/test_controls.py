"""Controls: what is asked follows what is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.controls import (
    UnmappedError,
    controlled,
    mapped_motion,
    mapped_text,
    shuffled,
    skipped,
    twin,
    twins,
)
from data_tools.rendered.questions import BINARY_QUESTIONS
from data_tools.sample import Sample
from rewards.motions import NAMES, PRIMITIVES, confusable

TURNS = ("mirrored", "reversed")


def sample(**changes) -> Sample:
    fields = {
        "id": "q",
        "video": "a.mp4",
        "question": BINARY_QUESTIONS["pan_left"],
        "options": ["No", "Yes"],
        "answer": "B",
        "task": "binary",
        "source": "rendered",
        "split": "test",
        "extras": {"motion": "pan_left", "asked": "pan_left", "scene": "left"},
    }
    return Sample(**fields | changes)


@pytest.mark.parametrize("control", TURNS)
@pytest.mark.parametrize("motion", PRIMITIVES)
def test_words_and_motions_turn_round_alike(control, motion):
    other = mapped_motion(motion, control)
    assert mapped_text(BINARY_QUESTIONS[motion], control) == BINARY_QUESTIONS[other]
    assert mapped_text(NAMES[motion], control, question=False) == NAMES[other]
    assert mapped_motion(other, control) == motion


def test_a_mirror_turns_sides_and_rolls_and_time_turns_all():
    changed = {control: {m for m in PRIMITIVES if mapped_motion(m, control) != m} for control in TURNS}
    sides = {"pan_left", "pan_right", "truck_left", "truck_right", "roll_cw", "roll_ccw"}
    assert changed == {"mirrored": sides, "reversed": set(PRIMITIVES) - {"static"}}


@pytest.mark.parametrize(
    ("control", "text", "mapped"),
    [
        ("mirrored", "Does the camera only pan Left?", "Does the camera only pan Right?"),
        ("mirrored", "Does it pan right to the man on the left?", "Does it pan left to the man on the right?"),
        ("mirrored", "Does the camera move in an anti-clockwise arc?", "Does the camera move in an clockwise arc?"),
        ("reversed", "Does the camera move leftward in the scene?", "Does the camera move rightward in the scene?"),
        ("reversed", "Does the camera pan from left to right?", "Does the camera pan from right to left?"),
        ("reversed", "Does the camera move downward (pedestal down)?", "Does the camera move upward (pedestal up)?"),
        ("reversed", "Is the camera zooming in?", "Is the camera zooming out?"),
        ("reversed", "Does the camera move at a slow motion speed?", "Does the camera move at a slow motion speed?"),
    ],
)  # fmt: skip
def test_directions_are_turned_round(control, text, mapped):
    assert mapped_text(text, control) == mapped


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is the man on the left when the camera pans right?", "direction or place"),
        ("Is the camera moving to the left of the car?", "direction or place"),
        ("Does the camera push in on her face?", "direction or place"),
        ("Does the camera zoom in and then out?", "order of events"),
        ("What does the man do?", "not about the camera"),
    ],
)
def test_a_label_that_would_be_unknown_is_refused(text, reason):
    with pytest.raises(UnmappedError, match=reason):
        mapped_text(text, "reversed")


def test_a_control_keeps_the_answer_where_it_turns_the_question():
    turned = controlled(sample(), "mirrored", seed=0)
    assert turned.question == BINARY_QUESTIONS["pan_right"] and turned.answer == "B"
    assert turned.extras == {"motion": "pan_right", "asked": "pan_right", "scene": "left"}
    assert controlled(sample(), "blank", 0) == controlled(sample(), "shuffled_frames", 0) == sample()
    with pytest.raises(UnmappedError, match="task ocr"):
        controlled(sample(task="ocr", options=[], answer="EXIT"), "mirrored", 0)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("motion", PRIMITIVES)
def test_a_twin_is_the_same_question_with_the_answer_that_follows(turn, motion):
    for asked in PRIMITIVES:
        given = {"question": BINARY_QUESTIONS[asked], "answer": "AB"[asked == motion]}
        other = twin(sample(**given, extras={"motion": motion, "asked": asked, "confusable": True}), turn, {})
        seen = mapped_motion(motion, turn)
        assert (other.question, other.answer_text) == (given["question"], "Yes" if asked == seen else "No")
        assert other.extras == {"motion": seen, "asked": asked, "confusable": asked == confusable(seen)}
    options = list(NAMES.values())
    given = {
        "task": "choice",
        "options": options,
        "answer": chr(65 + options.index(NAMES[motion])),
        "question": "Which?",
    }
    other = twin(sample(**given | {"question": "How does the camera move?"}, extras={"motion": motion}), turn, {})
    assert (other.options, other.answer_text) == (options, NAMES[seen])


def test_without_a_motion_the_label_of_the_opposite_answers_a_twin():
    left = sample(extras={})
    right = sample(id="r", question=BINARY_QUESTIONS["pan_right"], answer="A", extras={})
    still = sample(id="s", question=BINARY_QUESTIONS["static"], answer="A", extras={})
    found, reasons = twins([left, right, still], "mirrored")
    assert [(other.id, other.answer_text) for other in found] == [
        ("q", "No"),
        ("r", "Yes"),
        ("s", "No"),
    ] and not reasons
    found, reasons = twins([left, right, still], "mirrored", changed=True)
    assert [other.id for other in found] == ["q", "r"] and reasons == ["the answer stays"]
    elsewhere = right.model_copy(update={"start": 2.0})
    assert twins([left, elsewhere], "mirrored") == ([], ["no label of the opposite"] * 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "choice", "options": ["pan left", "static"], "answer": "A", "question": "Which?"}, "counterpart"),
        ({"task": "choice", "options": ["cat", "dog"], "question": "Who turns left?"}, "names a direction"),
        ({"answer": "A"}, "contradicts"),
    ],
)
def test_a_twin_without_a_sure_answer_is_refused(changes, reason):
    with pytest.raises(UnmappedError, match=reason):
        twin(sample(**changes), "mirrored", {})


@given(st.integers(2, 26), st.data())
def test_shuffled_options_keep_their_answer(count, data):
    options = [f"option {number}" for number in range(count)]
    answer = chr(65 + data.draw(st.integers(0, count - 1)))
    before = sample(task="choice", options=options, answer=answer, extras={})
    after = controlled(before, "shuffled_options", seed=data.draw(st.integers(0, 5)))
    assert after.answer_text == before.answer_text
    assert sorted(after.options) == sorted(options) and after.options != options


@given(st.integers(0, 40), st.text(max_size=5))
def test_a_shuffle_moves_something_and_is_named(count, name):
    order = shuffled(count, name)
    assert sorted(order) == list(range(count)) and order == shuffled(count, name)
    assert count < 2 or order != list(range(count))


def test_skipped_questions_are_counted_by_reason():
    assert skipped(["b", "a", "b"]) == {"b": 2, "a": 1} and sum(skipped([]).values()) == 0

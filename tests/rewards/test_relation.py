"""The relation of answers about a clip and about its twin."""

from hypothesis import given
from hypothesis import strategies as st

from rewards.relation import Answer, relations


def of(group: str, counterpart, *chosen: int | None) -> list[Answer]:
    return [Answer(group, counterpart, one) for one in chosen]


def test_answers_must_change_and_remain_as_the_right_ones_do():
    dynamic = [*of("step000001.00000", [1, 0], 1, 1, 0, None), *of("step000001.00001", [1, 0], 0, 0, 0, 1)]
    assert relations(dynamic) == [0.75, 0.75, 0.25, 0.0, 0.5, 0.5, 0.5, 0.25]
    static = [*of("step000001.00002", [0, 1], 1, 0), *of("step000001.00003", [0, 1], 1, 1)]
    assert relations(static) == [1.0, 0.0, 0.5, 0.5]
    choice = [*of("s.4", [1, 0, 2], 0, 2), *of("s.5", [1, 0, 2], 1, 2)]  # pan left, pan right, tilt up
    assert relations(choice) == [0.5, 0.5, 0.5, 0.5]


def test_questions_without_a_twin_have_no_relation_even_as_neighbours():
    assert relations([*of("s.6", None, 1, 0), *of("s.7", None, 1, 1)]) == [None] * 4
    assert relations(of("s.8", [1, 0], 1, 0)) == [None, None]  # its twin was not answered


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, 0, 1])), max_size=30))
def test_the_order_of_the_batch_and_other_pairs_change_nothing(rows):
    answers = [Answer(f"step000001.{number:05d}", [1, 0], chosen) for number, chosen in rows]
    found = dict(zip(range(len(answers)), relations(answers)))
    turned = relations(answers[::-1])[::-1]
    assert list(found.values()) == turned
    alone = [answer for answer in answers if answer.group in ("step000001.00000", "step000001.00001")]
    assert relations(alone) == [
        found[n] for n, answer in enumerate(answers) if answer in alone and answer.group <= "step000001.00001"
    ]

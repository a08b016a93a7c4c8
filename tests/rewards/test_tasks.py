import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.tasks import accuracy, chosen_option

YES_NO = ["No", "Yes"]


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        *[(text, 0) for text in ("A", "a", "(A)", "(a)", "A.", "A)", " A \n")],
        *[(text, 0) for text in ("No", "no.", "A. No", "(A) No.", "a) no")],
        *[(text, 1) for text in ("B", "B. Yes", "B: yes", "Yes", "YES.")],
        # Neither a first letter nor a letter somewhere counts (peers.md, E4, R13).
        *[(text, None) for text in ("Because it pans", "Both are possible", "A or B", "AB", "clearly B", "Answer: B")],
        *[(text, None) for text in ("A. Yes", "B. No", "(B) A", "No, yes", "C", "ERROR", "", ".", "()")],
    ],
)
def test_chosen_option(answer, index):
    assert chosen_option(answer, YES_NO) == index


def test_an_option_is_named_by_its_text_before_its_letter():
    assert chosen_option("pan left", ["truck left", "Pan left", "static"]) == 1
    assert chosen_option("B", ["B", "A"]) == 0
    assert chosen_option("C. static", ["truck left", "Pan left", "static"]) == 2


def test_accuracy():
    assert accuracy("B. Yes", "B", YES_NO, "binary") == 1.0
    assert accuracy("A", "B", YES_NO, "binary") == accuracy("Because", "B", YES_NO, "binary") == 0.0


@pytest.mark.parametrize(("gold", "task"), [("", "binary"), ("C", "binary"), ("AB", "choice"), ("A", "poem")])
def test_a_malformed_sample_is_an_error_and_never_a_point(gold, task):
    with pytest.raises(ValueError):
        accuracy("", gold, YES_NO, task)


@given(st.text(), st.lists(st.text(min_size=1), min_size=2, max_size=30, unique=True))
def test_any_answer_names_one_option_or_none(answer, options):
    chosen = chosen_option(answer, options)
    assert chosen is None or 0 <= chosen < len(options)
    assert accuracy(answer, "A", options, "choice") == float(chosen == 0)


@given(st.integers(0, 25), st.sampled_from(["{}", "({})", "{}.", "{})", " {} "]))
def test_every_letter_names_its_option(index, form):
    options = [f"option {number}" for number in range(26)]
    letter = chr(ord("A") + index)
    assert chosen_option(form.format(letter), options) == chosen_option(form.format(letter.lower()), options) == index

"""Pass rates: which questions are kept, and how many groups the online filter then keeps."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_set import says

from data_tools.sample import Sample
from evaluation.difficulty import (
    Rated,
    counts,
    histogram,
    in_order,
    keep_probability,
    keep_rate,
    rated,
    read_rates,
    summary,
    write_page,
    write_rates,
)

SAMPLE = Sample(
    id="q", video="a.mp4", question="?", options=["No", "Yes"], answer="B", task="binary", source="mine", split="rl"
)


def of(right: int, id: str = "q") -> Rated:
    said = says("q", "Yes").model_copy(
        update={"samples": [says("q", "Yes" if n < right else "No").response for n in range(4)]}
    )
    return rated(SAMPLE.model_copy(update={"id": id}), said, "ota", 0.2, 0.8)


def test_questions_between_the_bounds_are_kept_and_nothing_is_lost(tmp_path):
    failed = says("q", "Yes").model_copy(update={"error": "clip does not decode"})
    caption = SAMPLE.model_copy(update={"task": "caption", "options": [], "events": ["It pans."]})
    sampled = says("q", "x").model_copy(update={"samples": [says("q", "It pans.").response]})
    unknown = [
        rated(SAMPLE, None, "ota", 0, 1),
        rated(SAMPLE, failed, "ota", 0, 1),
        rated(caption, sampled, "ota", 0, 1),
    ]
    assert [each.fault for each in unknown] == ["no answer", "clip does not decode", "a caption needs a judge"]
    found = [*(of(right, str(right)) for right in (3, 0, 4, 1, 2)), *unknown]
    assert counts(found) == {"kept": 3, "too easy": 1, "too hard": 1, "quarantined": 3}
    assert histogram(found, 4) == [1, 1, 1, 1, 1]
    orders = {order: in_order(found, order) for order in ("as_given", "easy_first", "hard_first")}
    assert orders == {"as_given": ["3", "1", "2"], "easy_first": ["3", "2", "1"], "hard_first": ["1", "2", "3"]}
    write_rates(tmp_path / "rates.jsonl", found)
    assert read_rates(tmp_path / "rates.jsonl") == found
    told = summary(found, 4)
    assert sum(told["counts"].values()) == told["questions"] == 8
    assert {task: sum(by.values()) for task, by in told["tasks"].items()} == {"binary": 7, "caption": 1}


@given(st.integers(2, 5), st.integers(2, 9), st.data())
def test_of_enough_answers_the_keep_rate_is_that_of_all_groups_drawn_of_them(group, sampled, data):
    right = data.draw(st.integers(0, sampled))
    low, high = sorted(data.draw(st.lists(st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.99, 1.0]), min_size=2, max_size=2)))
    answers = [n < right for n in range(sampled)]
    found = keep_probability(right, sampled, group, low, high)
    if sampled >= group:
        means = [np.mean(chosen) for chosen in itertools.combinations(answers, group)]
    else:
        means, p = [], right / sampled
        for chosen in itertools.product((0, 1), repeat=group):
            weight = np.prod([p if one else 1 - p for one in chosen])
            means.append((weight, low + 1e-12 < np.mean(chosen) < high - 1e-12))
        assert found == pytest.approx(sum(weight for weight, kept in means if kept))
        return
    assert found == pytest.approx(np.mean([low + 1e-12 < mean < high - 1e-12 for mean in means]))


def test_the_keep_rate_of_a_split_is_the_mean_over_its_questions():
    assert keep_rate([of(0), of(4)], 4, 0.01, 0.99) == (0.0, 0.0)
    assert keep_rate([of(0), of(2)], 4, 0.01, 0.99) == pytest.approx((0.5, 0.5 / 2**0.5))
    assert keep_rate([rated(SAMPLE, None, "ota", 0, 1)], 4, 0.01, 0.99) is None


def test_the_page_shows_texts_as_text_and_needs_no_network(tmp_path):
    told = summary([of(right) for right in range(5)], 4)
    told |= {"samples": 4, "model": "<b>x</b>", "temperature": 1.0, "seed": 0, "low": 0.2, "high": 0.8}
    told |= {
        "order": "easy_first",
        "group": 8,
        "filter_low": 0.01,
        "filter_high": 0.99,
        "keep": {"all": 0.5, "kept": None},
    }
    write_page(tmp_path / "index.html", told)
    page = (tmp_path / "index.html").read_text()
    assert "5 questions = 3 kept + 1 too easy + 1 too hard + 0 quarantined." in page
    assert "&lt;b&gt;x" in page and "http" not in page

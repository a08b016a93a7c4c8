"""scores.json of a run: numbers counted by hand, and properties that hold for any predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score
from small_set import PREDICTIONS, SAMPLES, sample, says

from data_tools.controls import twins
from data_tools.sample import Sample, SampleError
from evaluation.benchmarks import benchmark_named
from evaluation.grading import OUTCOMES, grade, grade_all
from evaluation.measures.bootstrap import RESAMPLES
from evaluation.predictions import Prediction
from evaluation.run_scores import score_run, score_set, summary


def test_pair_accuracy_asks_for_both_answers_and_a_fixed_one_gets_nothing():
    """Twins of q1 (Yes, in the mirror No), q4 (No, in the mirror No: not asked) and q6 (pan left)."""
    asked = [SAMPLES[0], SAMPLES[5].model_copy(update={"options": ["static", "pan left", "pan right", "zoom in"]})]
    others, reasons = twins(asked, "mirrored", changed=True)
    assert [(other.id, other.answer_text) for other in others] == [("q1", "No"), ("q6", "pan right")] and not reasons

    def scored(first: dict[str, str], second: dict[str, str]) -> dict:
        said = [{id: says(id, answer) for id, answer in of.items()} for of in (first, second)]
        return score_run(asked, said[0], twins=grade_all(others, said[1]))

    right, turned = {"q1": "Yes", "q6": "pan left"}, {"q1": "No", "q6": "pan right"}
    s = scored(right, turned)
    assert (s["n_pairs"], s["pair_accuracy"], s["pair_accuracy_ci"]) == (2, 1.0, [1.0, 1.0])
    assert s["parts"]["binary"]["pair accuracy"]["value"] == 1.0 and s["pair_accuracy_missing"] is None
    assert scored(right, right)["pair_accuracy"] == scored(turned, turned)["pair_accuracy"] == 0.0
    assert scored(right, {"q1": "No"})["pair_accuracy"] == 0.5  # one that is missing is not right
    s = score_run(SAMPLES, PREDICTIONS)
    assert (s["n_pairs"], s["pair_accuracy"], s["pair_accuracy_ci"]) == (0, None, None)
    assert "eval.twins" in s["pair_accuracy_missing"]


def test_golden_values_counted_by_hand():
    """Every expected number is counted from the comments beside PREDICTIONS."""
    s = score_run(SAMPLES, PREDICTIONS)
    assert {key: s[key] for key in ("n", "n_clips", *OUTCOMES, "truncated")} == {
        "n": 8,
        "n_clips": 3,
        "right": 3,  # q1, q4, q6
        "wrong": 1,  # q2
        "no_option": 1,  # q7
        "malformed": 1,  # q3
        "failed": 1,  # q8
        "missing": 1,  # q5
        "unjudged": 0,
        "truncated": 1,  # q3
    }
    assert s["accuracy"] == 3 / 8  # of all questions
    assert s["constant_accuracy"] == 6 / 8  # No on three of five, pan left on all three choices
    assert s["format_rate"] == 5 / 8
    assert s["observation_fidelity"] == 4 / 8  # q1, q4, q6, q7 of all eight
    assert s["constant_observation_fidelity"] == 6 / 8  # six samples show pan_left
    assert s["motion_matrix"] == {
        "pan_left": {"none": 2, "pan_left": 3, "truck_left": 1},
        "truck_left": {"none": 1, "truck_left": 1},
    }
    assert s["n_binary"] == 5
    assert s["yes_recall"] == 1 / 2  # q1 of q1, q3
    assert s["no_recall"] == 1 / 3  # q4 of q2, q4, q5
    assert s["balanced_accuracy"] == pytest.approx(5 / 12)
    assert s["binary_accuracy"] == 2 / 5
    assert s["always_no_accuracy"] == 3 / 5
    assert s["always_yes_accuracy"] == 2 / 5
    assert s["per_primitive"] == {
        "pan_left": {"n": 2, "balanced_accuracy": 1.0, "yes_recall": 1.0, "no_recall": 1.0},
        "static": {"n": 1, "balanced_accuracy": None, "yes_recall": None, "no_recall": 0.0},
        "truck_left": {"n": 2, "balanced_accuracy": 0.0, "yes_recall": 0.0, "no_recall": 0.0},
    }
    assert s["confusable"] == [
        {"motion": "pan_left", "asked": "truck_left", "n": 1, "said_yes": 1.0},
        {"motion": "truck_left", "asked": "pan_left", "n": 1, "said_yes": 0.0},
    ]
    assert s["choice"] == {"n": 3, "accuracy": 1 / 3, "chance": 1 / 4}


def test_interval_is_that_of_a_loop_over_resampled_clips():
    """The loop repeats the questions of each drawn clip and lets scikit-learn compute the recalls."""
    rng = np.random.default_rng(1)
    samples = [
        sample(f"{clip}-{i}", f"{clip:02d}", rng.choice(["Yes", "No"]), "pan_left", "pan_left")
        for clip in range(12)
        for i in range(3)
    ]
    predictions = {s.id: says(s.id, rng.choice(["Yes", "No"])) for s in samples}
    clips = sorted({s.video for s in samples})
    gold = {clip: [s.answer_text for s in samples if s.video == clip] for clip in clips}
    told = {clip: [grade(s, predictions[s.id]).chosen for s in samples if s.video == clip] for clip in clips}
    values = []
    for weights in np.random.default_rng(7).multinomial(len(clips), [1 / len(clips)] * len(clips), size=RESAMPLES):
        drawn = [clip for clip, times in zip(clips, weights) for _ in range(times)]
        y, p = ([answer for clip in drawn for answer in answers[clip]] for answers in (gold, told))
        values.append(np.mean(recall_score(y, p, labels=["Yes", "No"], average=None)))
    assert score_run(samples, predictions, seed=7)["balanced_accuracy_ci"] == pytest.approx(
        list(np.percentile(values, [2.5, 97.5]))
    )


def test_more_questions_on_the_same_clips_do_not_narrow_the_interval():
    samples = [sample(f"{i}{gold}", f"{i}", gold, "pan_left", "pan_left") for i in range(8) for gold in ("Yes", "No")]
    predictions = {s.id: says(s.id, "Yes" if int(s.video[6]) % 2 else "No") for s in samples}
    again = [s.model_copy(update={"id": s.id + "again"}) for s in samples]
    twice = predictions | {p.id + "again": p.model_copy(update={"id": p.id + "again"}) for p in predictions.values()}
    once, doubled = score_run(samples, predictions), score_run(samples + again, twice)
    assert doubled["n_binary"] == 2 * once["n_binary"]
    assert doubled["balanced_accuracy_ci"] == once["balanced_accuracy_ci"]


ANSWERS = st.sampled_from(["A", "B", "Yes", "no", "Z", "malformed", "error", "missing"])


def predict(s: Sample, answer: str) -> Prediction | None:
    if answer == "missing":
        return None
    if answer == "error":
        return Prediction(id=s.id, response="", finish_reason="error", error="gone")
    if answer == "malformed":
        return Prediction(id=s.id, response="<answer>A</answer>", finish_reason="stop")
    return says(s.id, answer)


@given(st.lists(st.tuples(st.sampled_from(["Yes", "No"]), ANSWERS, st.integers(0, 3)), min_size=1), st.randoms())
def test_counts_add_up_and_order_does_not_matter(cases, random):
    samples = [sample(str(i), str(clip), gold, "pan_left", "pan_left") for i, (gold, _, clip) in enumerate(cases)]
    predictions = {s.id: p for s, (_, answer, _) in zip(samples, cases) if (p := predict(s, answer))}
    s = score_run(samples, predictions)
    assert sum(s[outcome] for outcome in OUTCOMES) == s["n"] == len(cases)
    assert s["accuracy"] == s["binary_accuracy"] == s["right"] / s["n"]
    assert s["missing"] == len(samples) - len(predictions)
    assert sum(s["motion_matrix"]["pan_left"].values()) == s["n"]

    shuffled = list(predictions.items())
    random.shuffle(shuffled)
    random.shuffle(samples)
    assert score_run(samples, dict(shuffled)) == s


@given(st.lists(st.sampled_from(["Yes", "No"]), min_size=2), st.sampled_from(["Yes", "No"]))
def test_a_constant_answer_gets_a_balanced_accuracy_of_one_half(golds, constant):
    samples = [sample(str(i), str(i % 3), gold, "pan_left", "pan_left") for i, gold in enumerate(golds)]
    s = score_run(samples, {q.id: says(q.id, constant) for q in samples})
    assert s["binary_accuracy"] == s[f"always_{constant.lower()}_accuracy"]
    if len(set(golds)) == 2:
        assert s["balanced_accuracy"] == 0.5
        assert s["balanced_accuracy_ci"] == [0.5, 0.5]
    else:
        assert s["balanced_accuracy"] is None
        assert s["balanced_accuracy_ci"] is None


def test_binary_options_must_be_yes_and_no():
    odd = SAMPLES[0].model_copy(update={"options": ["True", "False"]})
    with pytest.raises(SampleError, match="q1"):
        score_run([odd], {})


def test_no_observation_is_missed_where_none_is_asked_for():
    said = {"q1": Prediction(id="q1", response="<think>t</think><answer>Yes</answer>", finish_reason="stop")}
    told = score_run(SAMPLES[:1], said, schema="think_answer")
    assert (told["right"], told["n_motion"], told["observation_fidelity"]) == (1, 0, None)
    assert told["motion_matrix"] == {}


def test_a_score_of_all_questions_is_not_that_of_the_yes_no_questions():
    predictions = {s.id: says(s.id, s.answer if s.task == "binary" else "D") for s in SAMPLES}
    s = score_run(SAMPLES, predictions)
    assert (s["accuracy"], s["binary_accuracy"], s["choice"]["accuracy"]) == (5 / 8, 1.0, 0.0)
    assert s["parts"]["all questions"]["accuracy"]["value"] == s["accuracy"]
    assert s["parts"]["binary"]["accuracy"]["value"] == s["binary_accuracy"]


def test_fidelity_is_over_the_questions_whose_motion_is_known():
    unknown = SAMPLES[0].model_copy(update={"id": "q0", "extras": {}})
    s = score_run([SAMPLES[0], unknown], {"q0": says("q0", "A"), "q1": says("q1", "A")})
    assert (s["n"], s["n_motion"], s["observation_fidelity"]) == (2, 1, 1.0)


def test_a_well_formed_caption_that_no_judge_graded_counts_as_well_formed():
    caption = SAMPLES[0].model_copy(update={"task": "caption", "options": [], "answer": "a", "events": ["e"]})
    s = score_run([caption], {"q1": says("q1", "The camera pans.")})
    assert (s["unjudged"], s["format_rate"], s["accuracy"]) == (1, 1.0, 0.0)


def test_the_console_shows_every_task_of_a_mixed_set():
    spans = SAMPLES[0].model_copy(update={"task": "temporal_grounding", "options": [], "answer": "", "spans": [[0, 2]]})
    said = {"q1": says("q1", "0 to 1"), "q6": says("q6", "B")}
    line = summary(score_set(benchmark_named("samples"), [spans, SAMPLES[5]], said))
    assert "all questions: accuracy 0.750" in line
    assert "choice 1.000 · temporal grounding 0.500 · well formed 100.0 %" in line

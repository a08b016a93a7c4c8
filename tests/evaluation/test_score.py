import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score

import evaluation
from data_tools.sample import Sample, SampleError, write_samples
from evaluation.bootstrap import RESAMPLES
from evaluation.score import (
    OUTCOMES,
    Prediction,
    PredictionError,
    balanced_accuracy_gain,
    judge,
    judge_all,
    main,
    read_predictions,
    score,
)
from rewards.motions import observation


def sample(id: str, clip: str, gold: str, motion: str, asked: str | None = None, **extras) -> Sample:
    """A Yes/No question when `asked` is given, else a choice of four whose right option is the second."""
    options = ["Yes", "No"] if asked else ["static", "pan left", "roll clockwise", "zoom in"]
    return Sample(
        id=id,
        video=f"clips/{clip}.mp4",
        question="?",
        options=options,
        answer="AB"[options.index(gold)],
        task="binary" if asked else "choice",
        source="test",
        split="test",
        extras={"motion": motion} | ({"asked": asked} if asked else {}) | extras,
    )


def says(id: str, answer: str, seen: str = "pan_left") -> Prediction:
    response = f"<observation>{observation(seen)}</observation><think>So.</think><answer>{answer}</answer>"
    return Prediction(id=id, response=response, finish_reason="stop")


SAMPLES = [
    sample("q1", "one", "Yes", "pan_left", "pan_left", confusable=False),
    sample("q2", "one", "No", "pan_left", "truck_left", confusable=True),
    sample("q3", "two", "Yes", "truck_left", "truck_left", confusable=False),
    sample("q4", "two", "No", "truck_left", "pan_left", confusable=True),
    sample("q5", "three", "No", "pan_left", "static", confusable=False),
    sample("q6", "three", "pan left", "pan_left"),
    sample("q7", "three", "pan left", "pan_left"),
    sample("q8", "three", "pan left", "pan_left"),
]
PREDICTIONS = {
    prediction.id: prediction
    for prediction in [
        says("q1", "A", "pan_left"),  # right, and the observation is true
        says("q2", "Yes", "truck_left"),  # wrong: took the pan for a truck
        Prediction(id="q3", response="<observation>The picture", finish_reason="length"),  # malformed
        says("q4", "no", "truck_left"),  # right, by the option's text
        says("q6", "Pan Left", "pan_left"),  # right; q5 is missing
        says("q7", "E", "pan_left"),  # no option, though the observation is true
        Prediction(id="q8", response="", finish_reason="error", error="server gone"),
    ]
}


def test_golden_values_counted_by_hand():
    """Every expected number is counted from the comments beside PREDICTIONS."""
    s = score(SAMPLES, PREDICTIONS)
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
    assert s["accuracy"] == 2 / 5
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
    told = {clip: [judge(s, predictions[s.id]).chosen for s in samples if s.video == clip] for clip in clips}
    values = []
    for weights in np.random.default_rng(7).multinomial(len(clips), [1 / len(clips)] * len(clips), size=RESAMPLES):
        drawn = [clip for clip, times in zip(clips, weights) for _ in range(times)]
        y, p = ([answer for clip in drawn for answer in answers[clip]] for answers in (gold, told))
        values.append(np.mean(recall_score(y, p, labels=["Yes", "No"], average=None)))
    assert score(samples, predictions, seed=7)["balanced_accuracy_ci"] == pytest.approx(
        list(np.percentile(values, [2.5, 97.5]))
    )


def test_more_questions_on_the_same_clips_do_not_narrow_the_interval():
    samples = [sample(f"{i}{gold}", f"{i}", gold, "pan_left", "pan_left") for i in range(8) for gold in ("Yes", "No")]
    predictions = {s.id: says(s.id, "Yes" if int(s.video[6]) % 2 else "No") for s in samples}
    again = [s.model_copy(update={"id": s.id + "again"}) for s in samples]
    twice = predictions | {p.id + "again": p.model_copy(update={"id": p.id + "again"}) for p in predictions.values()}
    once, doubled = score(samples, predictions), score(samples + again, twice)
    assert doubled["n_binary"] == 2 * once["n_binary"]
    assert doubled["balanced_accuracy_ci"] == once["balanced_accuracy_ci"]


def test_gain_is_zero_against_itself_and_signed():
    right = judge_all(SAMPLES, {s.id: says(s.id, s.answer) for s in SAMPLES})
    actual = judge_all(SAMPLES, PREDICTIONS)
    assert balanced_accuracy_gain(actual, actual) == (0.0, [0.0, 0.0])
    gain, (low, high) = balanced_accuracy_gain(actual, right)
    assert gain == pytest.approx(7 / 12)
    assert low <= gain <= high
    assert balanced_accuracy_gain(right, actual)[0] == -gain
    with pytest.raises(ValueError, match="same samples"):
        balanced_accuracy_gain(actual, right[1:])


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
    s = score(samples, predictions)
    assert sum(s[outcome] for outcome in OUTCOMES) == s["n"] == len(cases)
    assert s["accuracy"] == s["right"] / s["n"]
    assert s["missing"] == len(samples) - len(predictions)
    assert sum(s["motion_matrix"]["pan_left"].values()) == s["n"]

    shuffled = list(predictions.items())
    random.shuffle(shuffled)
    random.shuffle(samples)
    assert score(samples, dict(shuffled)) == s


@given(st.lists(st.sampled_from(["Yes", "No"]), min_size=2), st.sampled_from(["Yes", "No"]))
def test_a_constant_answer_gets_a_balanced_accuracy_of_one_half(golds, constant):
    samples = [sample(str(i), str(i % 3), gold, "pan_left", "pan_left") for i, gold in enumerate(golds)]
    s = score(samples, {q.id: says(q.id, constant) for q in samples})
    assert s["accuracy"] == s[f"always_{constant.lower()}_accuracy"]
    if len(set(golds)) == 2:
        assert s["balanced_accuracy"] == 0.5
        assert s["balanced_accuracy_ci"] == [0.5, 0.5]
    else:
        assert s["balanced_accuracy"] is None
        assert s["balanced_accuracy_ci"] is None


def test_binary_options_must_be_yes_and_no():
    odd = SAMPLES[0].model_copy(update={"options": ["True", "False"]})
    with pytest.raises(SampleError, match="q1"):
        score([odd], {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "q9", "response": "", "finish_reason": "stop"}, r"predictions.jsonl:2: id: 'q9' is no sample"),
        ({"id": "q1", "response": "", "finish_reason": "stop"}, r"predictions.jsonl:2: id: 'q1' stands twice"),
        ({"id": "q2", "finish_reason": "stop"}, r"predictions.jsonl:2: response: Field required"),
        ({"id": "q2", "response": "", "finish_reason": "bored"}, r"predictions.jsonl:2: finish_reason"),
        ({"id": "q2", "response": "", "p_yes": 1.5}, r"predictions.jsonl:2: p_yes.*1.5 is no probability"),
        ({"id": "q2", "response": "", "option_probs": {"A": -1.0}}, r"predictions.jsonl:2: option_probs"),
    ],
)
def test_bad_predictions_name_file_and_line(tmp_path: Path, line, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(PREDICTIONS["q1"].model_dump_json() + "\n" + json.dumps(line) + "\n")
    with pytest.raises(PredictionError, match=message):
        read_predictions(path, {s.id for s in SAMPLES})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file of predictions"),
        (b"", "holds no prediction"),
        (b"\xff\xfe{}\n", r"predictions.jsonl:1: record: Invalid JSON"),
        (b"\n", r"predictions.jsonl:1: record: Invalid JSON"),
    ],
)
def test_a_file_that_holds_no_predictions_is_an_error(tmp_path: Path, content, message):
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PredictionError, match=message):
        read_predictions(path, {s.id for s in SAMPLES})


def run_cli(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "evaluation.score", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(evaluation.__file__).parents[1],
        check=False,
    )


def test_command_prints_the_table_and_writes_the_scores(tmp_path: Path):
    write_samples(tmp_path / "samples.jsonl", SAMPLES)
    lines = "".join(p.model_dump_json() + "\n" for p in PREDICTIONS.values())
    (tmp_path / "predictions.jsonl").write_text(lines)
    done = run_cli(
        f"labels={tmp_path}/samples.jsonl", f"predictions={tmp_path}/predictions.jsonl", f"out={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out/scores.json").read_text())
    assert written["counts"] == {"right": 3, "wrong": 1, "no_option": 1, "malformed": 1, "failed": 1, "missing": 1}
    assert written["parts"]["binary"]["balanced accuracy"]["value"] == score(SAMPLES, PREDICTIONS)["balanced_accuracy"]
    assert written["parts"]["binary"]["failures"] == 1
    text = (tmp_path / "out/samples.md").read_text()
    for said in ("balanced accuracy", "always No", "3 videos", "1000 resamples", "best constant per task", "Settings"):
        assert said in text
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".csv", ".tex", ".json"}


def test_command_fails_clearly_on_bad_input(tmp_path: Path, capsys):
    write_samples(tmp_path / "samples.jsonl", SAMPLES)
    (tmp_path / "predictions.jsonl").write_text('{"id": "[q1]", "response": "", "finish_reason": "stop"}\n')
    labels = f"labels={tmp_path}/samples.jsonl"
    done = run_cli(labels, f"predictions={tmp_path}/predictions.jsonl")
    assert done.returncode == 1
    assert "predictions.jsonl:1: id: '[q1]' is no sample" in done.stderr
    assert "Traceback" not in done.stderr
    assert main([labels, f"predictions={tmp_path}/absent.jsonl"]) == 1
    assert main([labels, "benchmark=unheard_of"]) == 1
    assert main([labels, "prediction=x"]) == 1
    assert main([labels]) == 1
    assert main([labels, "benchmark=dream1k", "predictions=x"]) == 1  # needs a judge
    predictions = f"predictions={tmp_path}/predictions.jsonl"
    (tmp_path / "predictions.jsonl").write_text('{"id": "q1", "response": "A"}\n')
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff")
    capsys.readouterr()
    for arguments, said in (
        ([labels, predictions, "seed=x"], "seed=x: give a whole number"),
        ([labels, predictions, "votes=yes"], "votes=yes: give true or false"),
        ([labels, predictions, "before=x"], "video_mmmu"),
        ([labels, predictions, "only=none_such"], "no label of none_such"),
        ([labels, predictions, "benchmark=mmvu", "only=all"], "cannot choose"),
        ([f"labels={tmp_path}/bytes.jsonl", predictions, "benchmark=mmvu"], "no text in UTF-8"),
    ):
        assert main(arguments) == 1 and said in capsys.readouterr().err


def test_no_observation_is_missed_where_none_is_asked_for():
    said = {"q1": Prediction(id="q1", response="<think>t</think><answer>Yes</answer>", finish_reason="stop")}
    told = score(SAMPLES[:1], said, schema="think_answer")
    assert (told["right"], told["n_motion"], told["observation_fidelity"]) == (1, 0, None)
    assert told["motion_matrix"] == {}

"""Files of predictions: whoever made them, a bad record is named by file and line."""

import json
from pathlib import Path

import pytest

from data_tools.sample import Sample
from evaluation.grading import grade
from evaluation.predictions import PredictionError, read_predictions


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"id": "q9", "response": "", "finish_reason": "stop"},
            r"predictions.jsonl:2: id: 'q9' is not the id of a sample",
        ),
        ({"id": "q1", "response": "", "finish_reason": "stop"}, r"predictions.jsonl:2: id: duplicate id 'q1'"),
        ({"id": "q2", "finish_reason": "stop"}, r"predictions.jsonl:2: response: Field required"),
        ({"id": "q2", "response": "", "finish_reason": "bored"}, r"predictions.jsonl:2: finish_reason"),
        ({"id": "q2", "response": "", "p_yes": 1.5}, r"predictions.jsonl:2: p_yes.*1.5 is not a probability"),
        ({"id": "q2", "response": "", "option_probs": {"A": -1.0}}, r"predictions.jsonl:2: option_probs"),
    ],
)
def test_bad_predictions_name_file_and_line(tmp_path: Path, line, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps({"id": "q1", "response": "A"}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(PredictionError, match=message):
        read_predictions(path, {"q1", "q2"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file of predictions"),
        (b"", "no prediction in it"),
        (b"\xff{}\n", r"predictions.jsonl:1: record: not text in UTF-8"),
        (b"[" * 100_000, r"predictions.jsonl:1: record: not JSON"),
        (b'{"id": ' + b"9" * 5000 + b', "response": "A"}', r"predictions.jsonl:1: record: not JSON"),
        (b'{"id": "q1", "prediction": "A"}', r"response: Field required.*; this one has the keys id, prediction"),
        (b'{"id": "q1", "response": true}', r"predictions.jsonl:1: response: Input should be a valid string"),
        (b"\n", r'no prediction in it. A file of predictions holds a line {"id": ..., "response": ...}'),
        (
            b'{"id": "q1", "response": "A", "response": "B"}',
            r"jsonl:1: record: duplicate key 'response', with 'A' and",
        ),
        (
            b'[{"id": "q1", "response": "A", "response": "B"}]',
            r"record: duplicate key 'response', with 'A' and 'B'",
        ),
        (b'{"id": "q1", "response": "A"}\n{"id": "q2"', r"predictions.jsonl:2: record: not JSON"),
        (b'{"q1": "A", "q2": "B"}', r"predictions.jsonl:1: id: Field required. A file of predictions holds"),
        (b'[{"id": "q1", "response": "A"}, {"id": "q1", "response": "A"}]', r"jsonl: record 2: id: duplicate id 'q1'"),
        (b'{"results": ["A"]}', r"predictions.jsonl: record 1: record: Input should be .*dictionary"),
        (b'{\n"answers": []\n}', r"neither records nor a list of them"),
    ],
)
def test_a_file_that_holds_no_predictions_is_an_error(tmp_path: Path, content, message):
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PredictionError, match=message):
        read_predictions(path, {"q1", "q2"})


@pytest.mark.parametrize(
    "content",
    [
        b'{"id": "1", "response": "A"}\n{"id": "2", "response": "B"}\n\n',
        b'\xef\xbb\xbf{"id": "1", "response": "A"}\r\n{"id": "2", "response": "B"}',
        b'{"id": 1, "response": "A"}\n\n{"id": 2, "response": "B", "other": null}\n',
        b'[{"id": "1", "response": "A"}, {"id": "2", "response": "B"}]',
        b'{"id": "1", "response": "A"}\n{"id": "2", "response": "B", "scores": [{"judge": 1}]}\n',
        b'{"predictions": [{"id": "1", "response": "A"}, {"id": "2", "response": "B"}], "accuracy": 0.5}',
        b'{"model": "m", "results": [{"id": 1, "response": "A"}, {"id": 2, "response": "B"}]}\n',
        b'\xef\xbb\xbf{\n "results": [\n  {"id": "1", "response": "A"},\n  {"id": "2", "response": "B"}\n ]\n}\n',
    ],
)
def test_predictions_are_taken_in_the_forms_that_others_write(tmp_path: Path, content):
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    assert {id: p.response for id, p in read_predictions(path, {"1", "2"}).items()} == {"1": "A", "2": "B"}


def test_a_null_response_is_a_failure_and_counts_as_wrong(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    lines = ('{"id": 1, "response": null}', '{"id": 2, "response": null, "error": "refused"}')
    path.write_text("\n".join((*lines, '{"id": 3, "response": NaN}')))
    sample = Sample(
        id="1", video="a.mp4", question="?", options=["a", "b"], answer="A", task="choice", source="s", split="test"
    )
    said = read_predictions(path, {"1", "2", "3"})
    graded = [grade(sample.model_copy(update={"id": id}), said[id], "none") for id in said]
    assert [(j.outcome, j.reason) for j in graded] == [
        ("failed", "the response is null"),
        ("failed", "refused"),
        ("failed", "the response is null"),
    ]


def test_a_response_that_is_a_number_is_its_digits(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": 1, "response": 3}\n{"id": 2, "response": 2.5}\n')
    assert [p.response for p in read_predictions(path, {"1", "2"}).values()] == ["3", "2.5"]


def test_predictions_are_read_in_the_form_that_camreasoner_s_authors_publish(tmp_path: Path):
    results = [
        {"problem_id": "Pan_Left_7", "id": "Pan_Left_2", "output": "<answer>B</answer>", "accuracy": 1.0},
        {"problem_id": "stable_or_shaky-3", "output": "<answer>ERROR</answer>", "prediction": "ERROR"},
    ]
    path = tmp_path / "CamReasoner_binary.json"
    path.write_text(json.dumps({"results": results, "metrics": {"overall/acc": 0.5}, "meta": {"batch_size": 128}}))
    found = read_predictions(path, {"Pan_Left_2", "stable_or_shaky-3"})
    assert found["Pan_Left_2"].response == "<answer>B</answer>" and found["Pan_Left_2"].error is None
    assert found["stable_or_shaky-3"].error == "the engine failed"


def test_half_a_character_of_a_response_becomes_a_question_mark(tmp_path: Path):
    """JSON can name it; no file can hold it, and no page show it."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 1, "response": "A\\ud83d", "samples": ["\\ud83d", "B"]}')
    prediction = read_predictions(path, {"1"})["1"]
    assert (prediction.response, prediction.samples) == ("A?", ["?", "B"])

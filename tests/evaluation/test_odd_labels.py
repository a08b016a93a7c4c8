"""Label files that are broken, of another kind, or hold values of another type: named, never a traceback."""

import json
from contextlib import suppress
from copy import copy

import benchmark_labels as made
import pytest

from data_tools.sample import Sample, SampleError
from evaluation.benchmarks import BENCHMARKS, LabelError, read_labels
from evaluation.benchmarks.labels import oddities
from evaluation.grading import grade
from evaluation.predictions import Prediction
from rewards.errors import UserError


@pytest.mark.parametrize("name", sorted(made.LABELS.keys() - {"camerabench_vqa", "camerabench_binary"}))  # many files
def test_a_field_of_another_type_is_an_error_that_the_user_can_fix(tmp_path, name):
    """Each field of the first record of each kind of file, one by one, in turn a number, a list, nothing ..."""
    path = made.LABELS[name](tmp_path / name)
    for file in [file for file in tmp_path.rglob("*") if file.suffix in (".json", ".jsonl")][:2]:
        text = file.read_text()
        rows = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else json.loads(text)
        for place in places(rows):
            for value in (None, 5, "x", [None]):
                other = replaced(rows, place, value)
                lines = [json.dumps(row) for row in other] if file.suffix == ".jsonl" else [json.dumps(other)]
                file.write_text("\n".join(lines))
                with suppress(UserError):
                    read_labels(BENCHMARKS[name], path)
        file.write_text(text)


def places(content, above=()):
    """The paths of all that the first element of each list holds."""
    if isinstance(content, dict):
        parts = list(content.items())
    else:
        parts = list(enumerate(content))[:1] if isinstance(content, list) else []
    for key, part in parts[:12]:
        yield (*above, key)
        yield from places(part, (*above, key))


def replaced(content, place, value):
    if not place:
        return value
    content = copy(content)
    content[place[0]] = replaced(content[place[0]], place[1:], value)
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08", "is compressed .gzip.: unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS: fetch the file itself"),
        ("[]".encode("utf-16"), "is text in UTF-16: write it as UTF-8"),
        (b"\n<!DOCTYPE html>", "is a web page"),
        (b'[{"id": 1, "answer": "A", "answer": "B"}]', "duplicate key 'answer', with 'A' and 'B'"),
        (b"[" * 100_000, "not JSON"),
        (b'[{"id": ' + b"9" * 5000 + b"}]", "not JSON"),
        (b'[{"question": "\xe9"}]', "not JSON .*decode|not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_label_file_of_another_kind_is_named(tmp_path, ending, content, said):
    path = tmp_path / f"labels.{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_labels(BENCHMARKS["mmvu"], path)


def test_a_table_that_is_none_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(LabelError, match="a.parquet: not a Parquet file"):
        read_labels(BENCHMARKS["videomme"], tmp_path / "a.parquet")


def test_moments_that_end_after_the_clip_are_scored_as_published_and_counted(tmp_path):
    content = {"A": {"duration": 10.0, "timestamps": [[2, 11.5], [1, 3]], "sentences": ["one.", "two."]}}
    labels = read_labels(BENCHMARKS["charades_sta"], made.write_json(tmp_path / "test.json", content))
    assert [sample.spans for sample in labels] == [[[2, 11.5]], [[1, 3]]]
    assert oddities(labels) == "1 of 2 questions name a moment that ends after the clip (as published)"


@pytest.mark.parametrize(("task", "gold"), [("open_ended", "😀"), ("math", "???")])
def test_a_gold_answer_that_no_rule_can_read_is_named(task, gold):
    fields = {"id": "q7", "video": "a.mp4", "question": "?", "source": "mine", "split": "test"}
    with pytest.raises(SampleError, match=r"sample 'q7': answer: .*correct the label, or leave the question out"):
        grade(Sample(**fields, task=task, answer=gold), Prediction(id="q7", response="3"), "none")

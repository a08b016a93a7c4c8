"""Labels in the forms of other trainers, as their documentation shows them; the records are made up."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.quarantine import Rejected
from data_tools.sample import Sample
from data_tools.sources import named, read_source
from data_tools.sources.base import SourceError
from rewards.tasks import check_sample

ASKED = "<video>Which way does the camera go?\nOptions:\nA. Left\nB. Right\nAnswer with the letter."
THOUGHT = "<think>It goes right.</think><answer>B</answer>"
SHAREGPT = {
    "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": THOUGHT}],
    "videos": ["clips/a.mp4"],
}
PARTS = [{"type": "video", "video": "clips/a.mp4"}, {"type": "text", "text": ASKED.removeprefix("<video>")}]
FORMS = {
    "ms_swift": {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED}],
        "videos": ["clips/a.mp4"],
        "solution": "<answer>B</answer>",
    },
    "easyr1": {"problem": ASKED, "answer": "B", "videos": ["clips/a.mp4"], "images": None},
    "verl": {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": ASKED}],
        "videos": [{"type": "video", "video": "file://clips/a.mp4", "fps": 2.0}],
        "ability": "vqa",
        "reward_model": {"style": "rule", "ground_truth": "B"},
        "extra_info": {"index": 3},
    },
    "trl": {
        "prompt": [{"role": "user", "content": PARTS}],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": "B"}]}],
    },
    "sharegpt": SHAREGPT,
    "alpaca": {"instruction": ASKED, "input": "", "output": THOUGHT, "history": [], "videos": ["clips/a.mp4"]},
}


def write(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        path.write_text(json.dumps(records))
    return path


def read(name: str, path: Path) -> tuple[list[Sample], list[Rejected]]:
    bad: list[Rejected] = []
    samples = list(read_source(named(name), path, "rl", bad.append))
    for sample in samples:
        check_sample(sample.model_dump())
    return samples, bad


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", FORMS)
def test_the_same_question_in_every_form_is_the_same_sample(name, ending, tmp_path):
    (sample,), bad = read(name, write(tmp_path / f"labels{ending}", [FORMS[name]]))
    assert not bad and (sample.id, sample.source) == ("labels-1", name)
    assert (sample.video, sample.question) == ("clips/a.mp4", "Which way does the camera go?")
    assert (sample.task, sample.options, sample.answer) == ("choice", ["Left", "Right"], "B")
    assert sample.extras == {"published_instruction": "Answer with the letter."}
    assert sample.chain == (THOUGHT if name in ("sharegpt", "alpaca") else None)


@pytest.mark.parametrize(
    ("answer", "task"), [("Yes.", "binary"), ("3", "numerical"), ("A man opens a door", "open_ended")]
)
def test_a_question_without_options_is_of_the_task_that_its_answer_shows(answer, task, tmp_path):
    record = {"query": "<video>What is there?", "response": answer, "videos": "a.mp4"}
    (sample,), _ = read("ms_swift", write(tmp_path / "a.jsonl", [record]))
    assert sample.task == task


def test_several_images_keep_their_places(tmp_path):
    record = {"problem": "Is <image> wider than <image>?", "answer": "yes", "images": ["1.png", "2.png"], "id": 7}
    (sample,), _ = read("easyr1", write(tmp_path / "a.parquet", [record]))
    assert (sample.id, sample.images, sample.question) == ("7", ["1.png", "2.png"], "Is <image> wider than <image>?")


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"messages": [*FORMS["ms_swift"]["messages"] * 2]}, "messages", "one question and at most one answer"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "a turn of 'tool'"),
        ({"solution": None}, "solution", "neither the record nor an assistant's turn"),
        ({"solution": "D"}, "answer", "names none of the options"),
        ({"solution": ["B"]}, "solution", "is neither text nor a number"),
        ({"messages": [{"role": "user", "content": "<video>Which?"}], "solution": "B"}, "answer", "has no options"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages", "only text, video and image"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", "only text, video and image"),
        ({"videos": 5}, "videos", "write the files, and their paths"),
        ({"videos": ["a.mp4", "b.mp4"]}, "videos", "holds 2 beside 0 image"),
        ({"videos": [{"bytes": "AAAA"}]}, "videos", "write the files, and their paths"),
        ({"images": [["1.jpg", "2.jpg"]], "videos": None}, "images", "the frames of a video stand under `videos`"),
        ({"videos": [["../1.jpg", "2.jpg"]]}, "frames", "stay under the media root"),
        ({"videos": [["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"]]}, "videos", "holds 2 beside 0 image"),
        ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, "messages", "only text, video and image"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]},
            "messages",
            "only text, video",
        ),
        ({"videos": ["/abs/a.mp4"]}, "video", "is an absolute path, and media_root= is not given"),
        ({"videos": ["file:///abs/a.mp4"]}, "video", "is an absolute path"),
        ({"videos": ["clips\\a.mp4"]}, "video", "write / between folders"),
        ({"videos": ["https://x.org/a.mp4"]}, "video", "is an address: download the file"),
        ({"history": [["Sure?", "Yes."]]}, "record", "history: holds earlier turns"),
        (
            {"messages": [{"role": "user", "content": "<video>Which?\na. Left\nb. Right"}], "solution": "b"},
            "answer",
            "no",
        ),
    ],
)
def test_what_cannot_be_a_sample_is_quarantined_by_field(change, field, reason, tmp_path):
    samples, (bad,) = read("ms_swift", write(tmp_path / "a.jsonl", [FORMS["ms_swift"] | change, FORMS["ms_swift"]]))
    assert len(samples) == 1 and (bad.record, bad.field) == ("1", field) and reason in bad.reason


def test_a_table_names_its_columns(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "\ufeffvideo,question,options,answer,task,start,end,spans,note\n"
        'a.mp4,"Which way, left?",Left | Right,Right,,1.5,4,,x\n'
        "a.mp4,Does it pan?,,no,,,,,x\n"
        'b.mp4,When does it open?,,,temporal_grounding,,,"[[2.0, 3.5]]",x\n'
        "b.mp4,When?,,,temporal_grounding,soon,,[],x\n"
    )
    (first, second, third), (bad,) = read("table", tmp_path / "mine.csv")
    assert (first.question, first.options, first.answer, first.start, first.end) == (
        "Which way, left?", ["Left", "Right"], "B", 1.5, 4.0
    )  # fmt: skip
    assert (second.task, second.answer_text) == ("binary", "No") and third.spans == [[2.0, 3.5]]
    assert (bad.record, bad.field, bad.reason) == ("4", "start", "'soon' is not a number")
    (tmp_path / "other.tsv").write_text("video\tquestion\tanswer\tfps\nframes/a\tDoes it pan?\tyes\t2\n")
    (other,), _ = read("table", tmp_path / "other.tsv")
    assert (other.answer_text, other.video, other.fps) == ("Yes", "frames/a", 2.0)


def test_cells_of_a_parquet_table_are_taken_as_they_are(tmp_path):
    row = {
        "video": "a.mp4",
        "question": "Which way?",
        "options": ["Left", "Right"],
        "answer": "Right",
        "start": 1.5,
        "id": 7,
    }
    moment = {"video": "b.mp4", "question": "When?", "task": "temporal_grounding", "spans": [[2.0, 3.5]]}
    (first, second), bad = read(
        "table", write(tmp_path / "mine.parquet", [row | {"task": None, "spans": None}, moment])
    )
    assert not bad and (first.id, first.options, first.answer, first.start) == ("7", ["Left", "Right"], "B", 1.5)
    assert second.spans == [[2.0, 3.5]]


def test_options_in_a_column_of_their_own_are_read(tmp_path):
    record = {"problem": "<video>Which way?", "options": ["A. Left", "B. Right"], "answer": "B", "videos": ["a.mp4"]}
    (sample,), _ = read("easyr1", write(tmp_path / "a.jsonl", [record]))
    assert (sample.question, sample.options, sample.answer) == ("Which way?", ["Left", "Right"], "B")


def test_a_file_of_another_form_is_named(tmp_path):
    with pytest.raises(SourceError, match="record 1: .*is it another set's file"):
        read("easyr1", write(tmp_path / "a.jsonl", [{"text": "hello"}]))
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(SourceError, match="not a Parquet file"):
        read("verl", tmp_path / "b.parquet")


FRAMES = ["v/1.jpg", "v/2.jpg", "v/3.jpg"]
ASKED = {"role": "user", "content": [{"type": "text", "text": "Does it pan?"}]}


@pytest.mark.parametrize(
    ("record", "fps"),
    [
        ({"problem": "Does it pan?", "solution": "Yes", "video": FRAMES}, None),
        ({"problem": "<video>Does it pan?", "solution": "Yes", "videos": FRAMES, "fps": 4}, 4.0),
        ({"problem": "<video>Does it pan?", "solution": "Yes", "videos": [FRAMES]}, None),
        (
            {"problem": "Does it pan?", "solution": "Yes", "videos": [{"video": FRAMES, "sample_fps": 1.0}], "fps": 9},
            1.0,
        ),
        (
            {
                "solution": "Yes",
                "messages": [{**ASKED, "content": [{"type": "video", "video": FRAMES, "fps": 2.0}, *ASKED["content"]]}],
            },
            2.0,
        ),
    ],
)
def test_a_list_of_frames_is_a_video_with_the_rate_that_the_record_says(record, fps, tmp_path):
    (sample,), bad = read("ms_swift", write(tmp_path / "a.jsonl", [record]))
    assert not bad and (sample.frames, sample.fps, sample.video, sample.images) == (FRAMES, fps, None, [])
    assert (sample.question, sample.shows) == ("Does it pan?", "frames")


def test_problems_name_frames_in_place_of_a_path(tmp_path):
    problem = {"problem": "Does it pan?", "solution": "<answer>Yes</answer>", "fps": 2.0}
    rows = [problem | {"path": FRAMES}, problem | {"videos": [FRAMES]}, problem | {"videos": FRAMES}]
    samples, bad = read("video_r1", write(tmp_path / "a.jsonl", rows))
    assert not bad and [(one.frames, one.fps) for one in samples] == [(FRAMES, 2.0)] * 3

"""Readers of published files. The records are made up; their form is that of the sources (docs/data.md)."""

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.quarantine import Quarantine, Rejected
from data_tools.sample import Sample, SampleError, read_samples
from data_tools.sources import SOURCES, named, read_source, shuffle_options
from data_tools.sources.base import SourceError, by_option, inner_answer, plain_options
from data_tools.sources.readers import _Shallow, json_array
from rewards.tasks import check_sample

SHARED = Path(os.environ.get("CAMREASONER_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def write_lines(path: Path, records: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_json(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def read_all(name: str, path: Path, **settings) -> tuple[list[Sample], list[Rejected]]:
    bad: list[Rejected] = []
    samples = list(read_source(named(name), path, "rl", bad.append, **settings))
    for sample in samples:
        check_sample(sample.model_dump())  # every sample can be scored
    return samples, bad


def problem(**changes) -> dict:
    record = {
        "problem_id": 7,
        "problem": "How many balls collide?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["A. 1", "B. 2", "C. 3"],
        "process": "",
        "solution": "<answer>B</answer>",
        "path": "./CLEVRER/train/video_00001.mp4",
        "data_source": "CLEVRER",
    }
    return record | changes


# ---------------------------------------------------------------- CameraBench


def test_camerabench_binary(tmp_path):
    record = {
        "image": "a.0.1.mp4",
        "question": "Does the camera roll clockwise?",
        "label": "Yes",
        "task": "Roll Clockwise",
        "label_name": "cam_motion.roll",
    }
    moved = record | {"image": "/data/videos/b.mp4", "label": "No"}
    write_lines(tmp_path / "binary" / "Roll_Clockwise.jsonl", [record, moved])
    write_lines(tmp_path / "binary" / "Static.jsonl", [record | {"task": "Static", "label": "Maybe"}])
    samples, bad = read_all("camerabench_binary", tmp_path / "binary")
    assert [(s.id, s.video, s.answer_text, s.task) for s in samples] == [
        ("Roll_Clockwise_1", "a.0.1.mp4", "Yes", "binary"),
        ("Roll_Clockwise_2", "b.mp4", "No", "binary"),  # some files name videos by their place at the authors'
    ]
    assert samples[0].extras["asked"] == "roll_cw"
    assert [(Path(line.file).name, line.record, line.field) for line in bad] == [("Static.jsonl", "1", "label")]


def test_camerabench_pairs_give_four_answers_each(tmp_path):
    pair = {
        "skill": "inner",
        "task": "left_vs_right",
        "pos_video": "l.mp4",
        "neg_video": "r.mp4",
        "pos_question": "Left?",
        "neg_question": "Right?",
    }
    path = write_lines(tmp_path / "motion_direction" / "pan.jsonl", [pair, [1]])
    samples, bad = read_all("camerabench_vqa", path)
    assert [(s.question, s.video, s.answer_text) for s in samples] == [
        ("Left?", "l.mp4", "Yes"),
        ("Left?", "r.mp4", "No"),
        ("Right?", "l.mp4", "No"),
        ("Right?", "r.mp4", "Yes"),
    ]
    assert {s.extras["skill"] for s in samples} == {"motion_direction"} and len(
        {s.extras["pair"] for s in samples}
    ) == 1
    assert [line.record for line in bad] == ["2"]


def test_camerabench_captions(tmp_path):
    record = {"video": "a.mp4", "question": "Describe it.", "answer": "It pans left."}
    samples, bad = read_all("camerabench_captions", write_json(tmp_path / "caption_data.json", [record]))
    assert (samples[0].task, samples[0].answer, bad) == ("open_ended", "It pans left.", [])


@pytest.mark.parametrize(
    "keys", [("messages", "role", "content", "user", "assistant"), ("conversations", "from", "value", "human", "gpt")]
)
def test_sharegpt_in_both_dialects(tmp_path, keys):
    turns, role, text, asks, answers = keys

    def record(question: str, answer: str, **more) -> dict:
        return {turns: [{role: asks, text: question}, {role: answers, text: answer}], "videos": ["v/a.mp4"]} | more

    chain = "<observation>o</observation>\n<think>t</think>\n<answer>A</answer>"
    path = write_json(
        tmp_path / "labels.json",
        [
            record("<video>Does it pan?", "No"),
            record("<video>Does it tilt?\nOptions:\nA. Yes\nB. No\nGive a letter.", chain),
            record("<video>Describe it.", "It stands still."),
            record("<video>And <video>?", "No"),
            record("<video>?", "No", videos=["a.mp4", "b.mp4"]),
            {turns: [{role: asks, text: "?"}], "videos": ["a.mp4"]},
            {turns: [{role: asks, text: "?"}, {role: answers, text: "No"}], "images": ["a.jpg"]},
        ],
    )
    samples, bad = read_all("camerabench_train", path)
    assert [(s.task, s.question, s.answer_text, s.chain) for s in samples] == [
        ("binary", "Does it pan?", "No", None),
        ("binary", "Does it tilt?", "Yes", chain),
        ("open_ended", "Describe it.", "It stands still.", None),
        ("binary", "?", "No", None),
    ]
    assert [s.media for s in samples[2:]] == [["v/a.mp4"], ["a.jpg"]]
    assert samples[1].extras == {"published_instruction": "Give a letter."}
    assert [line.field for line in bad] == ["question", "videos", "solution"]


# ---------------------------------------------------------------- problems


def test_problems_of_every_kind(tmp_path):
    rows = [
        problem(),
        problem(problem_type="numerical", options=[], solution="<answer>3.50</answer>"),
        problem(problem_type="regression", options=[], solution="<answer>1,200</answer>"),
        problem(problem_type="OCR", options=[], solution="<answer>EXIT 12</answer>"),
        problem(problem_type="free-form", options=[], solution="<answer>A ball.</answer>"),
        problem(problem_type="math", options=[], solution="<answer>$\\frac{1}{2}$</answer>"),
        problem(options=["A. Yes", "B. No"], process="<think>So.</think>"),
        problem(problem_type="temporal grounding", options=[], solution='<answer>{"time": [1, 2.5]}</answer>'),
        problem(problem_type="spatial grounding", options=[], solution='<answer>{"boxes": [1, 2, 3, 4]}</answer>'),
        problem(
            problem_type="tracking",
            solution='<answer>{"boxes": {"10": [0, 0, 9, 9], "2": [1, 1, 5, 5]}}</answer>',
            options=[],
        ),
    ]
    samples, bad = read_all("video_r1", write_json(tmp_path / "p.json", rows))
    assert not bad
    assert [s.task for s in samples] == [
        "choice", "numerical", "regression", "ocr", "open_ended", "math", "binary",
        "temporal_grounding", "spatial_grounding", "tracking",
    ]  # fmt: skip
    assert (samples[0].options, samples[0].answer, samples[0].video) == (
        ["1", "2", "3"],
        "B",
        "CLEVRER/train/video_00001.mp4",
    )
    assert samples[6].chain == "<think>So.</think>\n<answer>B</answer>" and samples[0].chain is None
    assert samples[7].spans == [[1, 2.5]]
    assert samples[9].boxes == [[1, 1, 5, 5], [0, 0, 9, 9]] and samples[9].extras["seconds"] == [2, 10]
    assert len({s.id for s in samples}) == len(samples)  # though the published numbers repeat


def test_a_problem_without_a_type_is_a_choice_where_it_can_be(tmp_path):
    untyped = {"problem": "Does it pan?", "videos": ["video/a.mp4"]}
    rows = [
        untyped | {"options": ["A. No", "B. Yes"], "answer": "<answer>B</answer>"},
        untyped | {"options": ["A. left", "B. right", "C. up"], "answer": "<answer>C</answer>", "problem_type": None},
        untyped | {"answer": "<answer>Yes.</answer>"},
        untyped | {"answer": "<answer>slowly</answer>", "problem_type": ""},
    ]
    samples, bad = read_all("camreasoner_rl", write_json(tmp_path / "rl.json", rows))
    assert [(s.task, s.answer_text) for s in samples] == [("binary", "Yes"), ("choice", "up"), ("binary", "Yes")]
    assert [(line.field, line.record) for line in bad] == [("problem_type", "4")]


def test_problems_that_are_no_samples_are_counted_with_their_reason(tmp_path):
    rows = [
        problem(),
        problem(data_type="image", path="./Chart/1.png"),
        problem(problem_type="segmentation"),
        problem(problem_type="spatial-temporal grounding"),
        problem(solution="<answer>E</answer>"),
        problem(options=["B. 1", "A. 2"]),
        problem(options=["A. 1", "B. 1"]),
        problem(problem_type="numerical", solution="<answer>many</answer>"),
        problem(problem_type="temporal grounding", solution="<answer>from 1 to 2</answer>"),
        problem(problem_type="temporal grounding", solution='<answer>{"time": [2, 1]}</answer>'),
        problem(path="/elsewhere/a.mp4"),
        problem(path="../a.mp4"),
        problem(path=None),
        problem(path=None, videos=["a.mp4", "b.mp4"]),
        problem(problem="<image> What is it?"),
        problem(solution=None),
        {"problem": "?"},
        "text",
        [problem()],
    ]
    samples, bad = read_all("onethinker", write_json(tmp_path / "p.json", rows))
    assert [s.media for s in samples] == [["CLEVRER/train/video_00001.mp4"], ["Chart/1.png"]]
    assert len(samples) + len(bad) == len(rows)
    assert [line.field for line in bad] == [
        "problem_type", "problem_type", "answer", "options", "options", "answer", "answer", "spans",
        "video", "video", "video", "videos", "question", "solution", "solution", "record", "record",
    ]  # fmt: skip
    assert bad[0].reason == "'segmentation' is not a task that is scored here"
    lines = io.StringIO()
    Quarantine(lines).add(bad[0])
    assert json.loads(lines.getvalue()) == {
        "file": str(tmp_path / "p.json"),
        "record": "3",
        "field": "problem_type",
        "reason": "'segmentation' is not a task that is scored here",
    }


def test_the_folder_of_a_source_does_not_open_the_media_root(tmp_path):
    rows = [problem(), problem(path="/etc/a.mp4"), problem(path="../../a.mp4")]
    samples, bad = read_all("video_r1", write_json(tmp_path / "p.json", rows), folder="r1/")
    assert [s.video for s in samples] == ["r1/CLEVRER/train/video_00001.mp4"] and len(bad) == 2


# ---------------------------------------------------------------- VideoChat-R1


def test_moments(tmp_path):
    content = {
        "AB1": {"duration": 30.9, "timestamps": [[24.3, 30.4], [5, 5]], "sentences": ["Person turns a light on.", "x"]},
        "CD2": {"duration": 10, "timestamps": [[0, 1]], "sentences": ["one.", "two."]},
        "EF3": {"duration": 10, "sentences": []},
        "GH4": [],
        "IJ5": {"timestamps": [[0, 1]], "sentences": ["three."]},
    }
    samples, bad = read_all("charades_sta", write_json(tmp_path / "train.json", content))
    assert [(s.id, s.video, s.spans, s.duration) for s in samples] == [
        ("AB1-0", "AB1.mp4", [[24.3, 30.4]], 30.9),
        ("CD2-0", "CD2.mp4", [[0, 1]], 10),
        ("IJ5-0", "IJ5.mp4", [[0, 1]], None),
    ]
    assert '"person turns a light on"' in samples[0].question
    assert [(line.record, line.field) for line in bad] == [
        ("AB1-1", "spans"),
        ("CD2-1", "timestamps"),
        ("EF3", "video"),
        ("GH4", "record"),
    ]


def test_nextgqa_in_both_forms(tmp_path):
    row = {
        "video_id": "257",
        "frame_count": "719",
        "width": "320",
        "height": "240",
        "question": "what did the baby do",
        "answer": "lay on floor",
        "qid": "8",
        "type": "TN",
        **dict(zip(("a0", "a1", "a2", "a3", "a4"), ("clap", "sit", "lay on floor", "pick it up", "crawl"))),
    }
    path = tmp_path / "val.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerows([row, row | {"qid": "9"}])
    with pytest.raises(SourceError, match=r"needs gsub_val.json beside it"):
        read_all("nextgqa_official", path)
    grounding = {"257": {"duration": 30, "location": {"8": [[23.0, 27.7]]}, "fps": 29.97}}
    write_json(tmp_path / "gsub_val.json", grounding)
    write_json(tmp_path / "map_vid_vidorID.json", {"257": "1101/257"})
    samples, bad = read_all("nextgqa_official", path)
    assert [(line.record, line.field) for line in bad] == [("2", "qid")]
    published = {
        "id": "257_8",
        "video": "1101/257.mp4",
        "question": row["question"],
        "options": ["(A) clap", "(B) sit", "(C) lay on floor", "(D) pick it up", "(E) crawl"],
        "duration": 30,
        "glue": [[23.0, 27.7]],
        "type": "TN",
        "answer": "(C)",
    }
    (other,), _ = read_all("nextgqa", write_json(tmp_path / "val.json", [published]))
    assert samples == [other.model_copy(update={"source": "nextgqa_official"})]
    assert (other.task, other.answer_text, other.spans) == ("grounded_qa", "lay on floor", [[23.0, 27.7]])


def test_got10k(tmp_path):
    boxes = [[0.1, 0.1, 0.2 + n / 20, 0.5] for n in range(8)]
    path = write_json(tmp_path / "got.json", [{"path": "x/GOT-10k_Val_000010", "object": "sloth", "gt": boxes}])
    (sample,), _ = read_all("got10k", path)
    assert (sample.id, sample.video, sample.boxes) == ("GOT-10k_Val_000010", "GOT-10k_Val_000010.mp4", boxes)
    assert "sloth" in sample.question and "8 boxes" in sample.question


def test_grades_and_captions_of_table_5(tmp_path):
    asked = "Is it fine? Choice one answer from ['low quality', 'high quality']."
    rows = [{"video": "0007.mp4", "instruction": asked, "answer": "high quality"}]
    rows += [rows[0] | {"video": "8.mp4", "answer": "so so"}, rows[0] | {"video": "9.mp4", "instruction": "[a, b"}]
    (sample,), bad = read_all("vidtab_qa", write_json(tmp_path / "100shot.json", rows))
    assert (sample.id, sample.video, sample.task, sample.question) == ("0007.mp4", "0007.mp4", "quality", asked)
    assert (sample.options, sample.answer) == (["low quality", "high quality"], "B")
    assert [rejected.field for rejected in bad] == ["answer", "answer"]

    rows = [{"video": "Sport/v_1.mp4", "caption": "A man jumps over a bar.", "spatial_caption": "A man."}]
    (sample,), _ = read_all("carebench", write_json(tmp_path / "metadata.json", rows), folder="carebench")
    assert (sample.id, sample.video, sample.task) == ("v_1", "carebench/Sport/v_1.mp4", "open_ended")
    assert sample.answer == "A man jumps over a bar."


# ---------------------------------------------------------------- files as users have them


def test_drift_is_named_at_the_first_record(tmp_path):
    renamed = {key.replace("problem", "question"): value for key, value in problem().items()}
    with pytest.raises(SourceError, match=r"p.json: record 1: problem: Field required.*keys problem, problem_type"):
        read_all("video_r1", write_json(tmp_path / "p.json", [renamed, renamed]))
    with pytest.raises(SourceError, match="record 1: record"):
        read_all("video_r1", write_json(tmp_path / "p.json", [["problem"]]))
    (tmp_path / "p.json").write_text(json.dumps({"a": problem()}, indent=1))
    with pytest.raises(SourceError, match="not a JSON array of records; give a list of records, or a record a line"):
        read_all("video_r1", tmp_path / "p.json")
    with pytest.raises(SourceError, match="not a JSON object"):
        read_all("charades_sta", write_json(tmp_path / "p.json", [problem()]))


def test_broken_and_missing_files_are_clear_errors(tmp_path):
    path = tmp_path / "p.json"
    text = json.dumps([problem(), problem()])
    for content in (text[:-20].encode(), text.replace("balls", "b\udcffalls").encode("utf-8", "surrogateescape")):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"p.json: (broken after record \d|holds no)"):
            read_all("video_r1", path)
    with pytest.raises(SourceError, match="is missing"):
        read_all("video_r1", tmp_path / "gone.json")
    with pytest.raises(SourceError, match="holds no"):
        read_all("camerabench_binary", tmp_path)
    with pytest.raises(SourceError, match="not a known source; choose from"):
        named("camerabench")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_bom_and_crlf_are_read(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    rows = [json.dumps(problem()), json.dumps(problem(problem="Wo fährt sie?"), ensure_ascii=False)]
    text = "[" + ",\r\n".join(rows) + "]" if suffix == "json" else "\r\n".join([*rows, "", ""])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    samples, bad = read_all("video_r1", path)
    assert [s.question for s in samples] == ["How many balls collide?", "Wo fährt sie?"] and not bad


def test_bad_lines_are_quarantined_and_the_rest_is_read(tmp_path):
    good = json.dumps(problem()).encode()
    lines = [good, b'{"problem": "\xff"}', b"[1, 2]", b'{"problem": "' + b"x" * 10_000_000 + b'"}', b"[" * 9999, good]
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n".join(lines))
    samples, bad = read_all("video_r1", path)
    assert [s.id for s in samples] == ["p-1", "p-6"] and [line.record for line in bad] == ["2", "3", "4", "5"]
    assert "UTF-8" in bad[0].reason and "longer than 8 MiB" in bad[2].reason


def test_a_record_with_a_duplicate_key_is_quarantined(tmp_path):
    """JSON keeps the last of two answers, and nobody would see that there was another."""
    good = json.dumps(problem(extra={"by": "me"}))
    bad = good[:-1] + ', "solution": "C"}', good.replace('{"by": "me"}', '[{"by": "me", "by": "you"}]')
    reasons = [
        "duplicate key 'solution', with '<answer>B</answer>' and 'C': keep one of them",
        "duplicate key 'by', with 'me' and 'you': keep one of them",
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join([good, *bad]))
    (tmp_path / "array.json").write_text(f"[{', '.join([good, *bad])}]")
    for name in ("lines.jsonl", "array.json"):
        samples, rejected = read_all("video_r1", tmp_path / name)
        assert len(samples) == 1 and [(each.record, each.reason) for each in rejected] == list(zip("23", reasons))

    moment = '{"duration": 10, "timestamps": [[0, 1]], "sentences": ["one."]'
    (tmp_path / "train.json").write_text(f'{{"AB": {moment}}}, "CD": {moment}, "duration": 1}}}}')
    (sample,), (rejected,) = read_all("charades_sta", tmp_path / "train.json")
    assert (sample.id, rejected.record) == ("AB-0", "CD") and "duplicate key 'duration'" in rejected.reason


def test_a_table_with_a_duplicate_column_is_named(tmp_path):
    (tmp_path / "labels.csv").write_text("video,question,answer,answer\na.mp4,Is it?,yes,no\n")
    with pytest.raises(SourceError, match="labels.csv: two columns have the name 'answer': keep one of them"):
        read_all("table", tmp_path / "labels.csv")


def test_sample_files_survive_the_same(tmp_path):
    sample = Sample(id="a", video="a.mp4", question="?", answer="x", task="ocr", source="s", split="rl")
    line = sample.model_dump_json().encode()
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line.replace(b'"a"', b'"b"') + b"\r\n")
    assert [s.id for s in read_samples(path)] == ["a", "b"]
    for bad, message in (
        (b"[1]", "s.jsonl:2: record: Input should be an object"),
        (b'{"id": "\xff"}', "s.jsonl:2: record: not text in UTF-8"),
        (
            line[:-1] + b', "answer": "y"}',
            "s.jsonl:2: record: duplicate key 'answer', with 'x' and 'y': keep one",
        ),
        (line[:-1] + b"x" * 10_000_000, "s.jsonl:2: record: the line is longer than 8 MiB"),
        (line, "s.jsonl:2: id: duplicate id 'a'"),
        (line.replace(b'"ocr"', b'"binary"'), "s.jsonl:2: options: binary needs"),
        (line.replace(b'"a.mp4"', b'"/a.mp4"'), "s.jsonl:2: video: '/a.mp4' must be relative"),
    ):
        path.write_bytes(line + b"\n" + bad)
        with pytest.raises(SampleError, match=message):
            list(read_samples(path))


def test_lists_that_nest_without_end_are_refused(tmp_path):
    """Of 200,000 levels the parser alone would take more memory than there is."""
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(SourceError, match=r"a\.json: values are nested in more than 100 levels"):
        list(json_array(tmp_path / "a.json"))


def depth(value) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


VALUES = st.recursive(
    st.text('[]{}"\\x', max_size=6),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[{"\\', max_size=3), inner),
)


@given(VALUES, st.integers(1, 9))
def test_levels_are_counted_outside_of_strings_however_the_file_is_cut(value, size):
    stream = _Shallow(io.BytesIO(json.dumps(value).encode()), Path("a.json"))
    deepest = 0
    while stream.read(size):
        deepest = max(deepest, stream.deepest)
    assert deepest == depth(value)


def test_arrays_are_streamed(tmp_path):
    """The first record is there before the last one is read: the file has no end yet."""
    path = tmp_path / "p.json"
    path.write_text("[" + ",".join([json.dumps(problem())] * 1000))
    stream = read_source(named("video_r1"), path, "rl", lambda line: None)
    assert next(stream).id == "p-1"


# ---------------------------------------------------------------- what formats share


PRINTED = st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).map(str.strip).filter(bool)


@given(st.lists(PRINTED, min_size=2, max_size=6))
def test_letters_in_front_of_options_are_taken_off(texts):
    assert plain_options([f"{letter}. {text}" for letter, text in zip("ABCDEF", texts)]) == texts
    assert plain_options([f"({letter}) {text}" for letter, text in zip("ABCDEF", texts)]) == texts


def test_options_that_are_letters_alone_keep_them():
    assert plain_options(["A.", "B."]) == ["A.", "B."] and plain_options(["A. ", "B. no"]) == ["A.", "B. no"]


@given(st.text())
def test_any_answer_text_is_read_or_refused(text):
    assert inner_answer(f"<think>{text}</think><answer>B</answer>") == "B"
    assert by_option(["no", "yes"], "yes")["answer"] == "B"


@given(st.text(min_size=1), st.integers(0, 9))
def test_shuffling_keeps_the_right_answer(name, seed):
    fields = {"video": "v", "question": "?", "task": "choice", "source": "s", "split": "rl"}
    sample = Sample(id=name, options=["a", "b", "c", "d"], answer="C", **fields)
    shuffled = shuffle_options(sample, seed)
    assert shuffled.answer_text == "c" and sorted(shuffled.options) == sample.options
    assert shuffled == shuffle_options(sample, seed) == Sample.model_validate(shuffled.model_dump())
    assert shuffle_options(sample.model_copy(update={"chain": "C"}), seed).options == sample.options


def test_shuffling_leaves_no_letter_a_prior():
    fields = {"video": "v", "question": "?", "task": "binary", "source": "s", "split": "rl"}
    samples = [Sample(id=str(n), options=["No", "Yes"], answer="A", **fields) for n in range(400)]
    assert 160 < Counter(shuffle_options(s, 0).answer for s in samples)["A"] < 240


def test_every_source_is_described():
    for name, source in SOURCES.items():
        assert name == source.name and source.title and source.licence and source.labels and source.media
        # Video-R1 and OneThinker have their labels on the hub.
        on_hub = "R1-data" in str(source.hub) or "Thinker" in str(source.hub)
        assert source.licence == "your own" or "github.com/" in source.labels or on_hub, name
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [name for name in SOURCES if f"`{name}`" not in page] == []


# ---------------------------------------------------------------- real files, where they are


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_real_labels_are_read_without_loss():
    # Counts of 2026-11: lines of the files, four answers per pair; primitives as research notes count them.
    counts = {}
    for name, path in (
        ("camerabench_binary", SHARED / "camerabench_official" / "binary_classification"),
        ("camerabench_vqa", SHARED / "camerabench_official" / "vqa_and_retrieval"),
        ("camreasoner_eval", SHARED / "camerabench_binary_half.json"),
    ):
        samples, bad = read_all(name, path)
        assert not bad and len({s.id for s in samples}) == len(samples)
        counts[name] = (len(samples), Counter(s.answer_text for s in samples)["Yes"])
    assert counts == {
        "camerabench_binary": (1380, 146),
        "camerabench_vqa": (4 * 301, 602),
        "camreasoner_eval": (3610, 449),
    }
    official, _ = read_all("camerabench_binary", SHARED / "camerabench_official" / "binary_classification")
    labels = {s.id: (s.question, s.answer_text, s.video) for s in official}
    theirs, _ = read_all("camreasoner_eval", SHARED / "camerabench_binary_half.json")
    same = [s for s in theirs if s.id in labels]
    assert len(same) > 600 and all(labels[s.id] == (s.question, s.answer_text, s.video[6:]) for s in same)


def command(*words: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "data_tools.sources", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def test_the_command_says_what_is_wrong_in_one_line_and_makes_its_folder(tmp_path):
    path = write_json(tmp_path / "val.json", {"v1": {"duration": 10.0, "timestamps": [[1.0, 4.0]], "sentences": ["a"]}})
    out = tmp_path / "new" / "rl.jsonl"
    done = command(path, "source=nonsense", "split=rl", f"out={out}")
    assert done.returncode == 1
    assert done.stderr.startswith("error 'nonsense' is not a known source; choose from activitynet")
    assert len(done.stderr.splitlines()) == 1 and not out.parent.exists()
    done = command(path, "source=activitynet", "split=rl", f"out={out}")
    assert done.returncode == 0 and f"1 records = 1 samples in {out} + 0" in done.stderr
    assert len(list(read_samples(out))) == 1

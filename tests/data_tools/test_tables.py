"""Tables as spreadsheets and people write them, and label files whose ending or form is another one than expected."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.quarantine import Rejected
from data_tools.sample import Sample, read_samples
from data_tools.sources import __main__ as command
from data_tools.sources import named, read_source
from data_tools.sources.base import SourceError
from rewards.errors import UserError

HEADER = "video,question,options,answer\n"
ROW = "a.mp4,Does it pan?,Yes|No,Yes\n"
RECORD = {"problem": "<video>Does it pan?", "answer": "yes", "videos": ["a.mp4"]}


def read(path: Path, content: str | bytes, source: str = "table", **settings) -> tuple[list[Sample], list[Rejected]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    bad: list[Rejected] = []
    return list(read_source(named(source), path, "rl", bad.append, **settings)), bad


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolons.csv", (HEADER + ROW).replace(",", ";")),
        ("hint.csv", "sep=;\r\n" + (HEADER + ROW).replace(",", ";")),
        ("tabs.csv", (HEADER + ROW).replace(",", "\t")),
        ("commas.tsv", HEADER + ROW),
        ("UPPER.CSV", HEADER + ROW),
        ("mac.csv", (HEADER + ROW).replace("\n", "\r")),
        ("blank.csv", "\r\n" + HEADER + ROW),
        ("spaces.csv", "Video, Question ,OPTIONS,Answer\n" + ROW.replace(",", " , ")),
        ("empty.csv", HEADER[:-1] + ",,\n" + ROW[:-1] + ",,\n,,,,,\n  ,,,,,\n"),
    ],
)
def test_a_table_is_read_as_spreadsheets_write_it(name, content, tmp_path):
    (sample,), bad = read(tmp_path / name, content)
    assert not bad and (sample.id, sample.video) == (f"{name.partition('.')[0]}-1", "a.mp4")
    assert (sample.question, sample.options, sample.answer) == ("Does it pan?", ["Yes", "No"], "A")


def test_cells_that_belong_to_no_column_are_not_lost(tmp_path):
    """A comma in a question without quotes moves its rest into the answer, and the answer out of the table."""
    rows = "a.mp4,Does it pan, or tilt?,yes\na.mp4,Does it pan?,yes\n"
    (sample,), (bad,) = read(tmp_path / "a.csv", "video,question,answer\n" + rows)
    assert (sample.id, bad.record, bad.field) == ("a-2", "1", "record")
    assert bad.reason == "has 4 cells for 3 columns (video, question, answer): put texts that hold ',' in quotes"
    (short,), bad = read(tmp_path / "short.csv", "video,question,answer,task\na.mp4,Does it pan?,yes\n")
    assert short.answer_text == "Yes" and not bad


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path):
    with pytest.raises(SourceError, match=r"a.csv: the row from line 3 on: .*Is a quote not closed"):
        read(tmp_path / "a.csv", HEADER + ROW + 'a.mp4,"Does it pan?,Yes|No,Yes\n' + ROW * 3)


def test_a_table_of_another_encoding_is_named_with_its_line(tmp_path):
    with pytest.raises(SourceError, match=r"a.csv: line 3 is not text in UTF-8 .*a table as CSV UTF-8.*iconv"):
        read(tmp_path / "a.csv", (HEADER + ROW + ROW.replace("a.mp4", "Ä.mp4")).encode("cp1252"))


@pytest.mark.parametrize(
    ("row", "column", "field", "reason"),
    [
        ("a.mp4,Q?,left|right,left", "option", "record", "the column 'option' is not read: name it 'options'"),
        ("a.mp4,Q?,no,yes", "ANSWER", "record", "two columns have the name 'answer': keep one of them"),
        ("a.mp4,Q?,left|right|,left", "options", "options", "one of ['left', 'right', ''] is empty"),
        ("a.mp4,Q?,left|right,1", "options", "answer", "give its letter or its text"),
        (",Q?,left|right,left", "options", "video", "is empty"),
        ('a.mp4,Q?,"[[1, 2]]",', "spans", "answer", "the column task says which task"),
    ],
)
def test_what_a_row_says_wrongly_is_named(row, column, field, reason, tmp_path):
    samples, (bad,) = read(tmp_path / "a.csv", f"video,question,{column},answer\n{row}\n")
    assert not samples and (bad.record, bad.field) == ("1", field) and reason in bad.reason


def test_cells_are_read_as_they_are_meant(tmp_path):
    rows = [
        'a.mp4,Which?,"[""left|up"", ""right""]",right,',
        'a.mp4,Which?,"[0, 1]|[1, 2]",B,',
        "a.mp4,Does it pan?,, yes,binary",
        "file://a.mp4,Does it pan?,,no.,",
    ]
    samples, bad = read(tmp_path / "a.csv", HEADER[:-1] + ",task\n" + "\n".join(rows))
    assert not bad and [sample.options for sample in samples[:2]] == [["left|up", "right"], ["[0, 1]", "[1, 2]"]]
    assert [(sample.task, sample.answer_text) for sample in samples[2:]] == [("binary", "Yes"), ("binary", "No")]
    assert {sample.video for sample in samples} == {"a.mp4"}
    nan = {"video": "a.mp4", "question": "How many?", "answer": 3.0, "start": float("nan")}
    pq.write_table(pa.Table.from_pylist([nan]), tmp_path / "a.parquet")
    (sample,) = read_source(named("table"), tmp_path / "a.parquet", "rl", bad.append)
    assert not bad and (sample.answer, sample.start) == ("3.0", None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(RECORD) + "\n" + json.dumps(RECORD) + "\n"),
        ("a.ndjson", json.dumps(RECORD) + "\n\n" + json.dumps(RECORD)),
        ("a.jsonl", json.dumps([RECORD, RECORD])),
        ("b.jsonl", "\ufeff" + json.dumps([RECORD, RECORD], indent=1)),
        ("b.JSON", json.dumps([RECORD, RECORD])),
    ],
)
def test_a_list_and_lines_are_told_apart_by_their_content(name, content, tmp_path):
    samples, bad = read(tmp_path / name, content, "easyr1")
    assert len(samples) == 2 and not bad


def test_json_of_another_encoding_is_named_with_its_line(tmp_path):
    text = json.dumps([RECORD, RECORD | {"problem": "Fährt sie?"}], indent=1, ensure_ascii=False)
    with pytest.raises(
        SourceError, match=r"a.json: broken after record 1: line 10 is not text in UTF-8 .*iconv[^\n]*$"
    ):
        read(tmp_path / "a.json", text.encode("cp1252"), "easyr1")


def test_a_folder_of_tables_is_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(HEADER + ROW)
    pq.write_table(
        pa.Table.from_pylist([{"video": "c.mp4", "question": "Does it pan?", "answer": "no"}]), tmp_path / "c.parquet"
    )
    bad: list[Rejected] = []
    assert [one.id for one in read_source(named("table"), tmp_path, "rl", bad.append)] == ["a-1", "b-1", "c-1"]
    assert not bad


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "holds no records"),
        ("a.csv", HEADER, "holds no records"),
        ("a.json", "", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", "\n", "holds no records"),
        ("a.xlsx", b"PK\x03\x04", r"cannot read .xlsx; give .json, .*saves its table as CSV UTF-8"),
        ("a.csv", b"PK\x03\x04", "saves its table as CSV UTF-8"),
        ("a.txt", HEADER + ROW, "cannot read .txt"),
        ("a.csv", ROW * 2, r"record 1: video: Field required. The record has a.mp4, .*keys video, question, answer"),
    ],
)
def test_a_file_without_records_or_of_another_kind_is_named(name, content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content)


def test_keys_are_named_as_files_spell_them(tmp_path):
    with pytest.raises(
        SourceError, match="The record has text, videos. easyr1 .*problem or query or question, .*answer"
    ):
        read(tmp_path / "a.jsonl", json.dumps({"text": "Q?", "videos": ["a.mp4"]}), "easyr1")


def test_columns_of_other_records_may_be_null(tmp_path):
    record = {
        "messages": None,
        "query": "Does it pan?",
        "solution": None,
        "answer": "yes",
        "videos": None,
        "video": "a.mp4",
    }
    (sample,), bad = read(tmp_path / "a.jsonl", json.dumps(record), "ms_swift")
    assert not bad and (sample.video, sample.answer_text) == ("a.mp4", "Yes")


def test_absolute_paths_in_the_media_root_become_relative(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "videos").symlink_to(tmp_path / "real")
    paths = [f"{tmp_path}/videos/a.mp4", f"file://{tmp_path}/real/b/c.mp4", "d.mp4", "/elsewhere/e.mp4"]
    lines = "\n".join(json.dumps(RECORD | {"videos": [path]}) for path in paths)
    samples, (bad,) = read(tmp_path / "a.jsonl", lines, "easyr1", root=tmp_path / "videos")
    assert [sample.video for sample in samples] == ["a.mp4", "b/c.mp4", "d.mp4"]
    assert bad.record == "4" and "does not lie in the media root" in bad.reason


def run(path: Path, out: Path, **more) -> None:
    command.main(command.SourcesArguments(files=[path], source="table", split="rl", out=out, **more))


def test_the_command_never_writes_over_what_it_reads(tmp_path):
    labels = tmp_path / "rl.jsonl"
    labels.write_text(json.dumps({"video": "a.mp4", "question": "Does it pan?", "answer": "yes"}))
    before = labels.read_bytes()
    for path, out in (
        (labels, labels),
        (tmp_path, tmp_path / "out.jsonl"),
        (labels, tmp_path / "new" / ".." / "rl.jsonl"),
    ):
        with pytest.raises(UserError, match="is, or lies in, what is read: name another file or folder"):
            run(path, out)
    assert labels.read_bytes() == before and list(tmp_path.iterdir()) == [labels]


def test_the_command_says_what_it_read_and_why_it_left_out_the_rest(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("video,question,answer\na.mp4,Q?,yes\na.mp4,Q?,\nb.mp4,Q?,3\nb.mp4,Q?,\n")
    run(tmp_path / "a.csv", tmp_path / "rl.jsonl")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("4 records = 2 samples in") and said[1] == "  tasks: binary 1, numerical 1"
    assert said[2].split(": ")[0].split() == ["2", "answer,", "first", "in", "record", "2"] and "is empty" in said[2]
    (tmp_path / "b.csv").write_text("video,question,answer\na.mp4,Q?,\n")
    with pytest.raises(SourceError, match="b.csv: none of its records is a sample"):
        run(tmp_path / "b.csv", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists() and (tmp_path / "none.quarantine.jsonl").stat().st_size


def test_a_folder_of_videos_may_be_absolute_too(tmp_path):
    settings = {"folder": f"{tmp_path}/videos/b", "root": tmp_path / "videos"}
    (sample,), bad = read(tmp_path / "a.csv", HEADER + ROW.replace("Does", "<video>Does"), **settings)
    assert not bad and (sample.video, sample.question) == ("b/a.mp4", "Does it pan?")


def test_a_folder_is_not_written_over_and_said_before_the_work(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + ROW)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out is a folder: name a file in it"):
        run(tmp_path / "a.csv", tmp_path / "out")


def test_records_of_another_trainer_in_place_of_samples_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORD) + "\n")
    with pytest.raises(
        UserError, match="a.jsonl:1: record: has the keys problem, answer, videos instead of a sample's"
    ):
        next(read_samples(tmp_path / "a.jsonl"))


def test_a_table_in_place_of_samples_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + ROW)
    with pytest.raises(UserError, match="a.csv: is a table, .*python -m data_tools.sources a.csv source=table split="):
        next(read_samples(tmp_path / "a.csv"))
    with pytest.raises(UserError, match="is a folder; give its files"):
        next(read_samples(tmp_path))

"""Label files that somebody made to end the command that reads them: the record is named, and the rest is read."""

import json
from pathlib import Path

import pytest

from data_tools.quarantine import Rejected
from data_tools.sources import named, read_source
from data_tools.sources.base import SourceError

RECORD = {"problem": "Which way?", "options": ["Left", "Right"], "answer": "B", "videos": ["a.mp4"]}


@pytest.mark.parametrize("options", ["[" + "-" * 100_000 + "1]", "[" + "1+" * 50_000 + "1j]", "[" * 100_000, "[\0]"])
def test_options_that_nest_without_end_are_quarantined(tmp_path: Path, options: str):
    (tmp_path / "rl.jsonl").write_text(json.dumps(RECORD | {"options": options}) + "\n" + json.dumps(RECORD))
    bad: list[Rejected] = []
    (sample,) = read_source(named("easyr1"), tmp_path / "rl.jsonl", "rl", bad.append)
    assert sample.answer == "B" and [rejected.record for rejected in bad] == ["1"]


def test_a_table_that_was_cut_is_named(tmp_path: Path):
    (tmp_path / "rl.parquet").write_bytes(b"PAR1" + bytes(1000) + b"PAR1")
    with pytest.raises(SourceError, match=r"rl\.parquet: not a Parquet file"):
        list(read_source(named("verl"), tmp_path / "rl.parquet", "rl", print))

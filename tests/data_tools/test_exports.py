import json

import pyarrow.parquet as pq
import pytest

from data_tools import exports
from data_tools.exports import ExportError, export_eval, export_llamafactory, export_verl, sample_of
from data_tools.media import Clip
from data_tools.sample import Sample

CLIPS = {"clips/a.mp4": Clip("clips/a.mp4", 4, 500, 84, 56, 2.0, "")}


def sample(**changes) -> Sample:
    record = {
        "id": "a",
        "video": "clips/a.mp4",
        "question": "Does the camera zoom in?",
        "options": ["No", "Yes"],
        "answer": "B",
        "task": "binary",
        "source": "rendered",
        "split": "sft",
        "chain": "<observation>o</observation><think>t</think><answer>B</answer>",
        "extras": {"motion": "zoom_in"},
    }
    return Sample(**{**record, **changes})


@pytest.fixture
def media(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"clip")
    return tmp_path


def test_llamafactory_gets_prompt_response_and_clip(media):
    assert export_llamafactory([sample()], media, media / "lf", system="S", instruction="Think.") == 1
    (record,) = json.loads((media / "lf" / "sft.json").read_text())
    assert [turn["role"] for turn in record["messages"]] == ["system", "user", "assistant"]
    assert record["messages"][1]["content"] == "<video>Does the camera zoom in?\nA. No\nB. Yes\nThink."
    assert record["messages"][2]["content"] == sample().chain
    assert record["videos"] == ["clips/a.mp4"]
    assert export_llamafactory((sample(id=str(n)) for n in range(3)), media, media / "lf", name="other") == 3
    assert len(json.loads((media / "lf" / "other.json").read_text())) == 3
    assert set(json.loads((media / "lf" / "dataset_info.json").read_text())) == {"sft", "other"}


def test_verl_gets_prompt_clip_and_whole_sample(media, monkeypatch):
    monkeypatch.setattr(exports, "ROWS", 1)
    mixed = [sample(), sample(id="b", task="choice", chain=None, extras={"spans": [[0.5, 1.0]]})]
    assert export_verl(mixed, media, media / "rl" / "train.parquet", CLIPS) == 2
    rows = pq.read_table(media / "rl" / "train.parquet").to_pylist()
    assert rows[0]["prompt"] == [{"role": "user", "content": "<video>Does the camera zoom in?\nA. No\nB. Yes"}]
    (video,) = rows[0]["videos"]
    clip = str(media / "clips" / "a.mp4")
    assert video == {"video": clip, "nframes": 4, "resized_height": 56, "resized_width": 84}
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "B"}
    assert rows[1]["extra_info"]["task"] == "choice" and rows[1]["extra_info"]["id"] == "b"
    assert [sample_of(row["extra_info"]) for row in rows] == mixed


def test_evaluators_get_the_same_prompt_and_clip(media):
    assert export_eval([sample()], media, media / "eval" / "test.jsonl", CLIPS, "S", "Think.") == 1
    record = json.loads((media / "eval" / "test.jsonl").read_text())
    assert Sample(**record["sample"]) == sample() and record["videos"][0]["nframes"] == 4
    export_verl([sample()], media, media / "x.parquet", CLIPS, "S", "Think.")
    (row,) = pq.read_table(media / "x.parquet").to_pylist()
    assert (row["prompt"], row["videos"]) == (record["messages"], record["videos"])


EXPORTS = [
    export_llamafactory,
    lambda samples, media, out: export_verl(samples, media, out / "x.parquet", CLIPS),
    lambda samples, media, out: export_eval(samples, media, out / "x.jsonl", CLIPS),
]


@pytest.mark.parametrize("export", EXPORTS)
def test_what_an_engine_would_choke_on_is_refused(media, export):
    with pytest.raises(ExportError, match="no samples"):
        export([], media, media / "out")
    with pytest.raises(ExportError, match="b: video: .*gone.mp4 is missing"):
        export([sample(), sample(id="b", video="clips/gone.mp4")], media, media / "out")
    (media / "clips" / "a.mp4").write_bytes(b"")
    with pytest.raises(ExportError, match="a: video: .*a.mp4 is empty"):
        export([sample()], media, media / "out")
    assert not [path for path in media.rglob("out/*") if path.suffix != ".partial"]


def test_sft_needs_a_chain(media):
    with pytest.raises(ExportError, match="a: chain"):
        export_llamafactory([sample(chain=None)], media, media / "out")

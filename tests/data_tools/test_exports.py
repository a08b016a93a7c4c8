import json

import pyarrow.parquet as pq
import pytest

from data_tools.exports import ExportError, VideoBudget, export_llamafactory, export_verl, sample_of
from data_tools.sample import Sample

BUDGET = VideoBudget(fps=2.0, max_frames=4, min_frames=4, max_pixels=7056, min_pixels=784)


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
    path = export_llamafactory([sample()], media, media / "lf", system="S", instruction="Think.")
    (record,) = json.loads(path.read_text())
    assert [turn["role"] for turn in record["messages"]] == ["system", "user", "assistant"]
    assert record["messages"][1]["content"] == "<video>Does the camera zoom in?\nA. No\nB. Yes\nThink."
    assert record["messages"][2]["content"] == sample().chain
    assert record["videos"] == ["clips/a.mp4"]
    export_llamafactory([sample()], media, media / "lf", name="other")
    assert set(json.loads((media / "lf" / "dataset_info.json").read_text())) == {"sft", "other"}


def test_verl_gets_prompt_clip_and_whole_sample(media):
    mixed = [sample(), sample(id="b", task="choice", chain=None, extras={"spans": [[0.5, 1.0]]})]
    rows = pq.read_table(export_verl(mixed, media, media / "rl" / "train.parquet", BUDGET)).to_pylist()
    assert rows[0]["prompt"] == [{"role": "user", "content": "<video>Does the camera zoom in?\nA. No\nB. Yes"}]
    (video,) = rows[0]["videos"]
    assert video["video"] == str(media / "clips" / "a.mp4") and video["max_frames"] == 4 and video["fps"] == 2.0
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "B"}
    assert rows[1]["extra_info"]["task"] == "choice" and rows[1]["extra_info"]["id"] == "b"
    assert [sample_of(row["extra_info"]) for row in rows] == mixed


@pytest.mark.parametrize("export", [export_llamafactory, lambda s, m, p: export_verl(s, m, p / "x.parquet", BUDGET)])
def test_what_an_engine_would_choke_on_is_refused(media, export):
    with pytest.raises(ExportError, match="no samples"):
        export([], media, media / "out")
    with pytest.raises(ExportError, match="b: video: .*gone.mp4 is missing"):
        export([sample(), sample(id="b", video="clips/gone.mp4")], media, media / "out")
    (media / "clips" / "a.mp4").write_bytes(b"")
    with pytest.raises(ExportError, match="a: video: .*a.mp4 is empty"):
        export([sample()], media, media / "out")
    assert not (media / "out").exists()


def test_sft_needs_a_chain(media):
    with pytest.raises(ExportError, match="a: chain"):
        export_llamafactory([sample(chain=None)], media, media / "out")

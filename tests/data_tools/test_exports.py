import json

import pyarrow.parquet as pq
import pytest

from data_tools import exports
from data_tools.exports import ExportError, eval_file, export, llamafactory_file, sample_file, sample_of, verl_file
from data_tools.media.normalise import Clip
from data_tools.prompt import PLAIN, Form
from data_tools.sample import Sample, read_samples

FORM = Form()
THINK = Form(prompt=PLAIN.model_copy(update={"system": "S", "instructions": {"ota": {"default": "Think."}}}))
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
    assert export([sample()], media, llamafactory_file(media / "lf", THINK)) == 1
    (record,) = json.loads((media / "lf" / "sft.json").read_text())
    assert [turn["role"] for turn in record["messages"]] == ["system", "user", "assistant"]
    assert record["messages"][1]["content"] == "<video>Does the camera zoom in?\nA. No\nB. Yes\nThink."
    assert record["messages"][2]["content"] == sample().chain
    assert record["videos"] == ["clips/a.mp4"]
    assert (
        export((sample(id=str(n)) for n in range(3)), media, llamafactory_file(media / "lf", FORM, name="other")) == 3
    )
    assert len(json.loads((media / "lf" / "other.json").read_text())) == 3
    assert set(json.loads((media / "lf" / "dataset_info.json").read_text())) == {"sft", "other"}


def test_verl_gets_prompt_clip_and_whole_sample(media, monkeypatch):
    monkeypatch.setattr(exports, "ROWS", 1)
    mixed = [sample(), sample(id="b", task="choice", chain=None, extras={"spans": [[0.5, 1.0]]})]
    assert export(mixed, media, verl_file(media / "rl" / "train.parquet", media, CLIPS, FORM)) == 2
    rows = pq.read_table(media / "rl" / "train.parquet").to_pylist()
    assert rows[0]["prompt"] == [{"role": "user", "content": "<video>Does the camera zoom in?\nA. No\nB. Yes"}]
    (video,) = rows[0]["videos"]
    clip = str(media / "clips" / "a.mp4")
    assert video == {"video": clip, "nframes": 4, "resized_height": 56, "resized_width": 84}
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "B"}
    assert rows[1]["extra_info"]["task"] == "choice" and rows[1]["extra_info"]["id"] == "b"
    assert [sample_of(row["extra_info"]) for row in rows] == mixed


def test_evaluators_get_the_same_prompt_and_clip(media):
    files = [
        eval_file(media / "eval" / "test.jsonl", media, CLIPS, THINK),
        verl_file(media / "x.parquet", media, CLIPS, THINK),
        sample_file(media / "x.jsonl"),
    ]
    assert export(iter([sample()]), media, *files) == 1  # in one pass
    assert list(read_samples(media / "x.jsonl")) == [sample()]
    record = json.loads((media / "eval" / "test.jsonl").read_text())
    assert Sample(**record["sample"]) == sample() and record["videos"][0]["nframes"] == 4
    (row,) = pq.read_table(media / "x.parquet").to_pylist()
    assert (row["prompt"], row["videos"]) == (record["messages"], record["videos"])


FILES = [
    lambda media: llamafactory_file(media / "out", FORM),
    lambda media: verl_file(media / "out" / "x.parquet", media, CLIPS, FORM),
    lambda media: eval_file(media / "out" / "x.jsonl", media, CLIPS, FORM),
]


@pytest.mark.parametrize("file", FILES)
def test_samples_that_engines_cannot_read_are_refused_and_no_file_is_left(media, file):
    with pytest.raises(ExportError, match="no samples"):
        export([], media, file(media))
    with pytest.raises(ExportError, match="b: video: .*gone.mp4 is missing"):
        export([sample(), sample(id="b", video="clips/gone.mp4")], media, file(media))
    (media / "clips" / "a.mp4").write_bytes(b"")
    with pytest.raises(ExportError, match="a: video: .*a.mp4 is empty"):
        export([sample()], media, file(media))
    assert not list(media.rglob("out/*"))


def test_sft_needs_a_chain(media):
    with pytest.raises(ExportError, match="a: chain"):
        export([sample(chain=None)], media, llamafactory_file(media / "out", FORM))

"""Stage `data`: the user's videos become clips in the media budget, and nothing is lost without a word."""

import builtins
import io
import json
import re
import socket
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools import sample as sample_module
from data_tools.prepare import PrepareError
from data_tools.rendered.scene import write_clip
from data_tools.sample import Sample, read_samples, write_samples
from data_tools.splits import SplitError
from launch.data import prepare
from launch.engines.ray.map import RayMap, WorkerError
from launch.planning.lengths import length_rows
from launch.run import run_of, stage

CHAIN = "<observation>o</observation><think>t</think><answer>A</answer>"


SMALL = ["rl.rollout_batch_size=2", "rl.global_batch_size=2", "rl.micro_batch_size_per_gpu=2"]


def files(folder, videos: int, broken: int = 0) -> list[str]:
    """Overrides for three splits of two samples per video; `broken` of the SFT split's videos are web pages."""
    (folder / "videos").mkdir()
    overrides = ["data=files", f"data.media_root={folder / 'videos'}", "cluster.cpus=2", *SMALL]
    for place, split in enumerate(("sft", "rl", "test")):
        samples = []
        for number in range(videos):
            name = f"{split}{number}.mp4"
            noise = np.random.default_rng([place, number]).integers(0, 255, (20, 64, 96, 3), np.uint8)
            write_clip(folder / "videos" / name, noise, fps=8.0)
            if split == "sft" and number < broken:
                (folder / "videos" / name).write_text("<html></html>")
            samples += [
                Sample(
                    id=f"{split}-{number}-{question}",
                    video=name,
                    question=f"Question {question}?",
                    options=["No", "Yes"],
                    answer="A",
                    task="binary",
                    source="mine",
                    split=split,
                    chain=CHAIN if split == "sft" else None,
                )
                for question in range(2)
            ]
        write_samples(folder / f"{split}.jsonl", samples)
        overrides.append(f"data.files.{split}={folder / f'{split}.jsonl'}")
    return overrides


def test_samples_name_clips_in_the_budget(tiny_recipe, tmp_path):
    overrides = files(tmp_path, videos=3, broken=1)
    run = run_of(tiny_recipe(*overrides, "data.max_quarantined=0.2"))
    with stage(run, "data"):
        prepare(run)
    run.require("data")  # the clips are in the recipe's budget

    sft = list(read_samples(run.data / "sft.jsonl"))
    quarantined = [json.loads(line) for line in (run.data / "quarantine.jsonl").read_text().splitlines()]
    assert [sample.id for sample in sft] == ["sft-1-0", "sft-1-1", "sft-2-0", "sft-2-1"]
    assert [fault["record"] for fault in quarantined] == ["sft-0-0", "sft-0-1"]
    assert all(fault["field"] == "video" and "a web page" in fault["reason"] for fault in quarantined)
    assert sft[0].duration == 2.5 and sft[0].extras == {"source_video": "sft1.mp4"}
    assert sft[0].video.startswith("clips/") and (run.media_root / sft[0].video).is_file()
    assert (run.data / "clips").resolve() == (run.folder.parent.parent / "clips").resolve()
    assert len(json.loads((run.data / "llamafactory" / "sft.json").read_text())) == 4
    rows = pq.read_table(run.data / "verl" / "rl.parquet").to_pylist()
    (item,) = rows[0]["videos"]
    assert (item["nframes"], item["resized_height"], item["resized_width"]) == (4, 56, 84)
    assert len((run.data / "eval" / "test.jsonl").read_text().splitlines()) == 6

    before = {path: path.stat().st_mtime_ns for path in (run.data / "clips").rglob("*.mp4")}
    other = run_of(tiny_recipe(*overrides, "data.max_quarantined=0.2", "name=other"))
    prepare(other)  # another run finds the clips there
    assert {path.stat().st_mtime_ns for path in (other.data / "clips").rglob("*.mp4")} == set(before.values())


def test_a_sample_about_a_part_of_a_video_gets_a_clip_of_it(tiny_recipe, tmp_path):
    overrides = files(tmp_path, videos=2)
    path = tmp_path / "test.jsonl"
    whole, *rest = read_samples(path)
    first, last = (whole.model_copy(update={"id": f"part-{s}", "start": s, "end": 2.0}) for s in (0.5, 1.0))
    write_samples(path, [whole, first, last, *rest])
    run = run_of(tiny_recipe(*overrides))
    prepare(run)
    made = {sample.id: sample for sample in read_samples(run.data / "test.jsonl")}
    assert [made[s.id].duration for s in (whole, first, last)] == [2.5, 1.5, 1.0]
    assert len({made[s.id].video for s in (whole, first, last)}) == 3
    assert (made["part-0.5"].start, made["part-0.5"].end) == (None, None)
    assert made["part-0.5"].extras == {"source_video": whole.video, "source_part": [0.5, 2.0]}

    train = [s.model_copy(update={"video": whole.video, "start": 2.0}) for s in read_samples(tmp_path / "rl.jsonl")]
    write_samples(tmp_path / "rl.jsonl", train)
    with pytest.raises(SplitError, match=f"show clips of test, {whole.video} first"):
        prepare(run_of(tiny_recipe(*overrides, "name=leaks")))


def test_one_file_is_not_trained_and_tested_on(tiny_recipe, tmp_path):
    """Whatever its samples say of their split."""
    overrides = files(tmp_path, videos=2)
    for name in ("rl", "test"):
        same = [f"data.files.{split}={tmp_path / name}.jsonl" for split in ("rl", "test")]
        said = "rl show clips of test" if name == "rl" else r"record 'test-0-0': split: is 'test', and data.files.rl"
        with pytest.raises(SplitError, match=said):
            prepare(run_of(tiny_recipe(*overrides, *same, f"name={name}")))


def test_what_an_engine_cannot_take_is_left_out_by_name(tiny_recipe, tmp_path, capsys):
    """Placeholders and special tokens in questions and options of any split; lengths by the model's own tokenizer."""
    from data_tools.rendered.tiny_model import build_tokenizer

    overrides = files(tmp_path, videos=4)
    build_tokenizer(["Question 0? No Yes"], 300).save_pretrained(tmp_path / "model")
    faults = {
        "sft": [{}, {"chain": CHAIN.replace(">t<", f">{'It turns. ' * 100}<")}],
        "rl": [
            {"question": "Which tag, <image> or <b>?"},
            {"question": "word " * 300},
            {"options": ["A. No", "B. Yes"]},
        ],
        "test": [{"options": ["<|im_end|>", "Yes"]}],
    }
    for split, changed in faults.items():
        records = [sample.model_dump() for sample in read_samples(tmp_path / f"{split}.jsonl")]
        for record, fields in zip(records, changed):
            record |= fields
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = run_of(tiny_recipe(*overrides, f"model.path={tmp_path / 'model'}", "data.max_quarantined=0.2"))
    planned = dict(length_rows(run.recipe))
    prepare(run)
    left_out = {
        name: [json.loads(line) for line in (run.data / f"{name}.jsonl").read_text().splitlines()]
        for name in ("quarantine", "rl.quarantine", "test.quarantine")
    }
    named = {
        name: [(each["file"], each["record"], each["field"]) for each in lines] for name, lines in left_out.items()
    }
    sft, rl, test = (str(tmp_path / f"{split}.jsonl") for split in ("sft", "rl", "test"))
    assert named == {
        "quarantine": [(sft, "sft-0-1", "chain"), (rl, "rl-0-1", "question")],
        "rl.quarantine": [(rl, "rl-0-0", "question")],
        "test.quarantine": [(test, "test-0-0", "options")],
    }
    assert planned["too long (sft)"] == "1 of 8: more than sft.cutoff_len=512, left out"
    assert re.fullmatch(r"1 of 8.*: more than rl.max_prompt_length=256, left out", planned["too long (rl)"])
    assert "more than sft.cutoff_len=512" in left_out["quarantine"][0]["reason"]
    assert "tokens with its clip, more than rl.max_prompt_length=256" in left_out["quarantine"][1]["reason"]
    assert [s.options for s in read_samples(run.paths.samples("rl"))] == [["No", "Yes"]] * 6
    said = " ".join(capsys.readouterr().out.split())
    assert "22 samples = 20 + 2 longer than their limit" in said and "rl: 1 records are not valid samples" in said
    with pytest.raises(
        PrepareError, match=r"2 of 22 samples are left out \(2 longer than their limit\), more than data"
    ):
        prepare(run_of(tiny_recipe(*overrides, f"model.path={tmp_path / 'model'}", "name=strict")))


@pytest.mark.parametrize(("broken", "message"), [(1, r"2 of 18 samples have broken videos"), (3, "none of the videos")])
def test_too_many_broken_videos_end_the_stage(tiny_recipe, tmp_path, broken, message):
    run = run_of(tiny_recipe(*files(tmp_path, videos=3, broken=broken)))
    with pytest.raises(PrepareError, match=message + r".*see .*quarantine\.jsonl"):
        prepare(run)
    assert len((run.data / "quarantine.jsonl").read_text().splitlines()) == 2 * broken


def test_each_file_of_the_user_s_is_read_twice_and_none_of_ours(tiny_recipe, tmp_path, monkeypatch):
    run = run_of(tiny_recipe(*files(tmp_path, videos=2)))
    parsed, opened = Counter(), Counter()

    def counted_open(file, mode="r", *args, open=io.open, **settings):
        if "r" in mode:
            opened[str(file)] += 1
        return open(file, mode, *args, **settings)

    def counted_parse(line, parse=sample_module.parse_sample):
        sample = parse(line)
        parsed[sample.id] += 1
        return sample

    monkeypatch.setattr(io, "open", counted_open)
    monkeypatch.setattr(builtins, "open", counted_open)
    monkeypatch.setattr(sample_module, "parse_sample", counted_parse)
    prepare(run)
    assert len(parsed) == 12 and set(parsed.values()) == {2}
    labels = {name: count for name, count in opened.items() if name.endswith(".jsonl")}
    assert labels == {str(tmp_path / f"{split}.jsonl"): 2 for split in ("sft", "rl", "test")}


def test_rendered_clips_are_in_the_budget_as_they_are(tiny_recipe):
    sizes = [f"data.rendered.{split}={{clips: 2, binary: 2}}" for split in ("sft", "rl", "test")]
    run = run_of(tiny_recipe(*sizes, "cluster.cpus=1"))
    prepare(run)
    rows = pq.read_table(run.data / "verl" / "test.parquet").to_pylist()
    (item,) = rows[0]["videos"]
    assert item["video"] == str(run.data / "clips" / "test-00000.mp4") and item["nframes"] == 4
    assert json.loads((run.data / "media.json").read_text())["budget"] == vars(run.recipe.budget)


def test_a_cluster_that_is_not_there_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"no Ray cluster at {address}: .*refused"):
            list(RayMap(address)(str, [0]))

"""Stage `data`: the user's videos become clips in the media budget, and nothing is lost without a word."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools.render import write_clip
from data_tools.sample import Sample, read_samples, write_samples
from launch.data import prepare
from launch.errors import LaunchError
from launch.run import open_run

CHAIN = "<observation>o</observation><think>t</think><answer>A</answer>"


def files(folder, videos: int, broken: int = 0) -> list[str]:
    """Overrides for three splits of two samples per video; `broken` of the SFT split's videos are web pages."""
    (folder / "videos").mkdir()
    overrides = ["data=files", f"data.media_root={folder / 'videos'}", "cluster.cpus=2"]
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
    run = open_run(tiny_recipe(*overrides, "data.max_quarantined=0.2"))
    prepare(run)
    (run.folder / "stages").mkdir()
    (run.folder / "stages" / "data.json").write_text("{}")
    run.require("data")  # the clips are in the recipe's budget

    sft = list(read_samples(run.data / "sft.jsonl"))
    quarantined = [json.loads(line) for line in (run.data / "quarantine.jsonl").read_text().splitlines()]
    assert [sample.id for sample in sft] == ["sft-1-0", "sft-1-1", "sft-2-0", "sft-2-1"]
    assert [fault["record"] for fault in quarantined] == ["sft-0-0", "sft-0-1"]
    assert all(fault["field"] == "video" and "undecodable" in fault["reason"] for fault in quarantined)
    assert sft[0].duration == 2.5 and sft[0].extras == {"source_video": "sft1.mp4"}
    assert sft[0].video.startswith("clips/") and (run.media_root / sft[0].video).is_file()
    assert (run.data / "clips").resolve() == (run.folder.parent.parent / "clips").resolve()
    assert len(json.loads((run.data / "llamafactory" / "sft.json").read_text())) == 4
    rows = pq.read_table(run.data / "verl" / "rl.parquet").to_pylist()
    (item,) = rows[0]["videos"]
    assert (item["nframes"], item["resized_height"], item["resized_width"]) == (4, 56, 84)
    assert len((run.data / "eval" / "test.jsonl").read_text().splitlines()) == 6

    before = {path: path.stat().st_mtime_ns for path in (run.data / "clips").rglob("*.mp4")}
    other = open_run(tiny_recipe(*overrides, "data.max_quarantined=0.2", "name=other"))
    prepare(other)  # another run finds the clips there
    assert {path.stat().st_mtime_ns for path in (other.data / "clips").rglob("*.mp4")} == set(before.values())


@pytest.mark.parametrize(("broken", "message"), [(1, r"2 of 18 samples have broken videos"), (3, "none of the videos")])
def test_too_many_broken_videos_end_the_stage(tiny_recipe, tmp_path, broken, message):
    run = open_run(tiny_recipe(*files(tmp_path, videos=3, broken=broken)))
    with pytest.raises(LaunchError, match=message + r".*quarantine\.jsonl says why"):
        prepare(run)
    assert len((run.data / "quarantine.jsonl").read_text().splitlines()) == 2 * broken


def test_rendered_clips_are_in_the_budget_as_they_are(tiny_recipe):
    sizes = [f"data.rendered.{split}={{clips: 2, binary: 2}}" for split in ("sft", "rl", "test")]
    run = open_run(tiny_recipe(*sizes, "cluster.cpus=1"))
    prepare(run)
    rows = pq.read_table(run.data / "verl" / "test.parquet").to_pylist()
    (item,) = rows[0]["videos"]
    assert item["video"] == str(run.data / "clips" / "test-00000.mp4") and item["nframes"] == 4
    assert json.loads((run.data / "media.json").read_text())["budget"] == vars(run.recipe.budget)

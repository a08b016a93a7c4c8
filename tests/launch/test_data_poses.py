"""Stage `data` on clips with known camera tracks: what the camera does is in the samples of every split."""

import json
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_tools.exports import sample_of
from data_tools.poses import PoseError
from data_tools.prepare import PrepareError
from data_tools.rendered.scene import draw_scene, draw_track, render_frames, write_clip
from data_tools.sample import Sample, read_samples, write_samples
from launch import data, plan, rl
from launch.errors import LaunchError
from launch.recipe import RecipeError
from launch.run import run_of
from tests.data_tools.made_poses import write_npz, write_tum

CHAIN = "<observation>o</observation><think>t</think><answer>A</answer>"
SHOWN = {  # split -> video -> what its camera does; those of "plain" have no pose file
    "sft": {"sft/pan.mp4": "pan_left", "sft/plain.mp4": "tilt_up"},
    "rl": {"rl/truck.mp4": "truck_right", "rl/zoom.mp4": "zoom_in", "rl/plain.mp4": "dolly_in"},
    "test": {"test/roll.mp4": "roll_cw", "test/plain.mp4": "static"},
}


SMALL = ["rl.rollout_batch_size=2", "rl.global_batch_size=2", "rl.micro_batch_size_per_gpu=2"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """The videos, their pose files, and a store of their clips."""
    folder = tmp_path_factory.mktemp("media")
    for split, videos in SHOWN.items():
        for name in ("videos", "poses"):
            (folder / name / split).mkdir(parents=True)
        for number, (video, motion) in enumerate(videos.items()):
            rng = np.random.default_rng([number, *split.encode()])
            track = draw_track(motion, rng, frames=6, size=56)
            write_clip(folder / "videos" / video, render_frames(draw_scene(rng), track), track.fps)
            path = folder / "poses" / video
            if motion == "zoom_in":
                write_npz(path.with_suffix(".npz"), track)
            elif "plain" not in video:
                write_tum(path.with_suffix(".txt"), track)
    (folder / "clips").mkdir()
    return folder


@pytest.fixture
def files(media, tmp_path) -> list[str]:
    """Overrides for a question about each video, and one about a part of the first of RL."""
    shutil.copytree(media / "poses", tmp_path / "poses")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "clips").symlink_to(media / "clips")
    for split, videos in SHOWN.items():
        samples = [question(video, split) for video in videos]
        if split == "rl":
            samples.append(question("rl/truck.mp4", split, id="part", start=0.5, end=2.5))
        write_samples(tmp_path / f"{split}.jsonl", samples)
    given = [f"data.files.{split}={tmp_path / f'{split}.jsonl'}" for split in SHOWN]
    return ["data=files", f"data.media_root={media / 'videos'}", "cluster.cpus=2", *SMALL, *given]


def question(video: str, split: str, **fields) -> Sample:
    chain = CHAIN if split == "sft" else None
    asked = {"question": "Does it move?", "options": ["No", "Yes"], "answer": "A", "task": "binary", "source": "mine"}
    return Sample(**{"id": video, "video": video, "split": split, "chain": chain} | asked | fields)


def test_what_the_camera_does_is_known_in_every_split(tiny_recipe, files, tmp_path, capsys):
    run = run_of(tiny_recipe(*files, f"data.poses.folder={tmp_path / 'poses'}", "reward.fidelity_weight=0.3"))
    data.check(run)
    data.prepare(run)
    for split, videos in SHOWN.items():
        known = {s.extras["source_video"]: s.extras.get("motion") for s in read_samples(run.paths.samples(split))}
        assert known == {video: None if "plain" in video else motion for video, motion in videos.items()}
    rows = [sample_of(row["extra_info"]) for row in pq.read_table(run.paths.verl_data("rl")).to_pylist()]
    assert {sample.id: sample.extras.get("motion") for sample in rows}["part"] == "truck_right"
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "8 clips = 5 with a pose file + 3 without; the 5 = 5 of a single motion + 0 of several + 0 that" in told
    assert json.loads((run.data / "media.json").read_text())["poses"] == {
        "with_pose_file": 5, "without_pose_file": 3, "single_motion": 5, "several_motions": 0, "unusable": 0,
    }  # fmt: skip


def test_a_wrong_pose_file_costs_its_samples_and_is_named(tiny_recipe, files, tmp_path):
    truck = tmp_path / "poses" / "rl" / "truck.txt"
    truck.write_text(truck.read_text().replace(" ", " nan ", 1))
    said = question("test/roll.mp4", "test", id="said", extras={"motion": "pan_left"})
    write_samples(tmp_path / "test.jsonl", [*read_samples(tmp_path / "test.jsonl"), said])
    overrides = [*files, f"data.poses.folder={tmp_path / 'poses'}"]
    run = run_of(tiny_recipe(*overrides, "data.max_quarantined=0.4"))
    data.prepare(run)
    lines = [json.loads(line) for line in run.paths.quarantine.read_text().splitlines()]
    assert [(line["record"], line["field"]) for line in lines] == [
        ("rl/truck.mp4", "poses"), ("part", "poses"), ("said", "extras.motion"),
    ]  # fmt: skip
    assert lines[0]["reason"].startswith(f"{truck}:1: 9 columns") and "shows roll_cw" in lines[2]["reason"]
    counts = Counter(sample.split for split in SHOWN for sample in read_samples(run.paths.samples(split)))
    assert counts == {"sft": 2, "rl": 2, "test": 2}  # of nine, three are quarantined
    with pytest.raises(PrepareError, match=r"3 of 9 samples are left out \(3 with poses that cannot be used\)"):
        data.prepare(run_of(tiny_recipe(*overrides, "name=strict")))


def test_without_pose_files_nothing_is_known(tiny_recipe, files, tmp_path):
    run = run_of(tiny_recipe(*files))
    data.prepare(run)
    assert all("motion" not in sample.extras for split in SHOWN for sample in read_samples(run.paths.samples(split)))
    assert "poses" not in json.loads((run.data / "media.json").read_text())
    missing = run_of(tiny_recipe(*files, f"data.poses.folder={tmp_path / 'none'}"))
    with pytest.raises(LaunchError, match=r"data\.poses\.folder: .*none is not a folder"):
        data.check(missing)
    (tmp_path / "none").mkdir()
    with pytest.raises(PoseError, match="no video has a pose file there"):
        data.prepare(missing)


def test_the_observation_is_paid_only_where_a_motion_is_known(tiny_recipe, files, tmp_path, monkeypatch):
    """Refused by plan and data before anything is written, and by RL where data was made without."""
    paid = run_of(tiny_recipe(*files, "reward.fidelity_weight=0.3"))
    message = r"reward\.fidelity_weight=0\.3 pays observations .* which no RL sample knows: .*data\.poses\.folder"
    for refuses in (data.check, lambda run: plan.check(run.recipe)):
        with pytest.raises(RecipeError, match=message):
            refuses(paid)
    assert not paid.folder.exists()
    data.prepare(run_of(tiny_recipe(*files)))
    monkeypatch.setattr(rl, "check_prompts", lambda recipe: None)
    with pytest.raises(RecipeError, match=message):
        rl.check(paid)

    (tmp_path / "poses" / "rl" / "zoom.npz").unlink()
    truck = tmp_path / "poses" / "rl" / "truck.txt"
    truck.write_text("")  # seems to be one until it is read
    overrides = [*files, f"data.poses.folder={tmp_path / 'poses'}", "data.max_quarantined=0.5", "name=broken"]
    run = run_of(tiny_recipe(*overrides, "reward.fidelity_weight=0.3"))
    data.check(run)
    with pytest.raises(RecipeError, match=message):
        data.prepare(run)
    told = [s.model_copy(update={"extras": {"motion": "static"}}) for s in read_samples(tmp_path / "rl.jsonl")]
    write_samples(tmp_path / "rl.jsonl", told)
    data.check(paid)  # the samples themselves know


def test_rendered_clips_take_no_pose_files(tiny_recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.poses\.folder is for data\.files"):
        tiny_recipe(f"data.poses.folder={tmp_path}")
    data.check(run_of(tiny_recipe("reward.fidelity_weight=0.3")))  # whose tracks are known

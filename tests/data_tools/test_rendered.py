from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_tools.rendered.dataset import RenderedError, RenderedSettings, build_rendered
from data_tools.rendered.scene import read_clip
from data_tools.rendered.tiny_model import split_into_pairs
from data_tools.sample import read_samples
from data_tools.tracks import Track, motion_of_track, span_of_track
from rewards.motions import PRIMITIVES
from rewards.response import parse
from rewards.tasks import accuracy, check_sample

SETTINGS = RenderedSettings(
    sft={"clips": 15, "binary": 10, "choice": 5, "confusable": 0},
    rl={"clips": 4, "binary": 8},
    test={"clips": 3, "choice": 3},
    size=28,
    terse_chains=0.5,
)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    seen = []
    counts = build_rendered(SETTINGS, folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 22) for n in range(1, 23)]
    return folder, counts


def test_counts_are_what_was_asked_for(built):
    folder, counts = built
    assert counts["sft"]["clips"] == 15 and counts["sft"]["binary"] == 10 and counts["sft"]["choice"] == 5
    assert counts["rl"]["no"] == 4 and counts["rl"]["confusable_no"] == 2
    assert [len(list(read_samples(folder / f"{split}.jsonl"))) for split in ("sft", "rl", "test")] == [15, 8, 3]


def test_samples_are_true_to_their_tracks_and_splits_share_no_scene(built):
    folder, _ = built
    scenes = {}
    for split in ("sft", "rl", "test"):
        for sample in read_samples(folder / f"{split}.jsonl"):
            clip = folder / sample.video
            assert clip.stat().st_size
            assert motion_of_track(Track.load(clip.with_suffix(".json"))) == sample.extras["motion"]
            assert (sample.chain is not None) == (split == "sft")
            assert sample.chain is None or parse(sample.chain).ok
            scenes.setdefault(sample.extras["scene"], set()).add(split)
    assert all(len(splits) == 1 for splits in scenes.values())


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(built, tmp_path):
    build_rendered(SETTINGS, tmp_path, workers=2)
    assert contents(tmp_path) == contents(built[0])


def test_it_goes_on_where_it_was_killed(tmp_path, built):
    folder, _ = built
    before = contents(folder)
    kept = folder / "clips" / "sft-00001.mp4"
    written = kept.stat().st_mtime_ns
    (folder / "clips" / "sft-00000.mp4").unlink()
    (folder / "clips" / "sft-00002.json").unlink()
    (folder / "sft.jsonl").unlink()
    build_rendered(SETTINGS, folder)
    assert contents(folder) == before
    assert kept.stat().st_mtime_ns == written


def test_a_folder_holds_one_data_set(built):
    with pytest.raises(RenderedError, match="other settings"):
        build_rendered(SETTINGS.model_copy(update={"seed": 1}), built[0])


def test_the_primitives_take_turns(built):
    shown = {key.removeprefix("clips/"): count for key, count in built[1]["sft"].items() if key.startswith("clips/")}
    assert shown == dict.fromkeys(PRIMITIVES, 1)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A data set that also asks when, and where."""
    sizes = {"clips": 2, "binary": 2, "grounding": 8, "tracking": 6}
    size = {"sft": sizes, "rl": sizes, "test": sizes}
    settings = RenderedSettings(**size, frames=8, size=56, chains="think_answer", terse_chains=0.5)
    folder = tmp_path_factory.mktemp("joint")
    return folder, build_rendered(settings, folder)


def test_when_and_where_are_what_the_clip_shows(joint):
    folder, counts = joint
    assert {counts["rl"][task] for task in ("temporal_grounding", "tracking", "clips")} == {8, 6, 16}
    spans = set()
    for split in ("sft", "rl", "test"):
        for sample in read_samples(folder / f"{split}.jsonl"):
            track = Track.load(folder / Path(sample.video).with_suffix(".json"))
            frames = read_clip(folder / sample.video).astype(int)
            check_sample(sample.model_dump())
            if sample.task == "temporal_grounding":
                (start, end), seconds = sample.spans[0], np.arange(1, 8) / 2
                moved = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
                still = (seconds <= start) | (seconds > end)
                assert span_of_track(track) == (start, end) != (0, sample.duration)
                assert moved[still].max(initial=0) < moved[~still].min()
                spans.add((start, end))
            elif sample.task == "tracking":
                red_THW = (frames[..., 0] > 145) & (frames[..., 1:].max(-1) < 70)  # no texture is so red
                for frame, box in zip(red_THW[2::2], sample.boxes):
                    rows, columns = np.nonzero(frame)
                    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 56 * 100
                    assert np.abs(seen - box).max() < 4  # two pixels of a compressed picture
    assert len(spans) > 3


def test_chains_of_every_task_are_right(joint):
    worth = {"binary": 1.0, "temporal_grounding": 1.0, "tracking": 0.6}  # boxes are told in steps of 5 %
    for sample in read_samples(joint[0] / "sft.jsonl"):
        response = parse(sample.chain, "think_answer")
        assert response.ok and accuracy(response.answer, sample.model_dump()) >= worth[sample.task]


def test_the_warm_up_takes_each_pair_of_frames_by_itself(joint):
    clips = sorted((joint[0] / "clips").glob("sft-*.mp4"))
    tracks = [Track.load(clip.with_suffix(".json")) for clip in clips]
    pairs, motions, boxes = split_into_pairs(np.stack([read_clip(clip) for clip in clips]), tracks)
    assert pairs.shape == (16 * 4, 2, 56, 56, 3) and len(motions) == len(boxes) == 64
    start, end = span_of_track(tracks[2])  # of the first clip that asks when
    assert [motion != "static" for motion in motions[8:12]] == [start <= second < end for second in range(4)]
    assert motions[-4:] == [None] * 4 and np.isnan(boxes[:40]).all() and not np.isnan(boxes[40:]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"sft": {"clips": 2, "grounding": 3}},  # of two seconds
        {"size": 30},
        {"frames": 3},
        {"fps": 0},
        {"sft": {"clips": 0, "binary": 2}},
        {"sft": {"clips": 2, "binary": 3}},
        {"sft": {"clips": 2}},
        {"seeds": 1},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(ValidationError):
        RenderedSettings(**{**SETTINGS.model_dump(), **change})
    with pytest.raises(RenderedError, match="workers"):
        build_rendered(SETTINGS, None, workers=0)

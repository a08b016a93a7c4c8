"""Videos that are given as the files of their frames."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_images import write_image
from made_videos import write_video

from data_tools.check import check_files
from data_tools.labels import LabelFile, Wanted
from data_tools.media.budget import Budget
from data_tools.media.child import ClipError
from data_tools.media.normalise import Clip
from data_tools.media.parallel import ALL_CORES
from data_tools.media.pictures import pictures_in
from data_tools.media.store import normalise_all
from data_tools.prepare import Videos, prepare_files
from data_tools.prompt import Form
from data_tools.rendered.dataset import read_clip
from data_tools.run_folder import RunFolder
from data_tools.sample import Cut, FieldError, Sample, parse_sample, read_samples, sample_line, write_samples

BUDGET = Budget(fps=2, max_frames=8, min_frames=4, max_pixels=7056, min_pixels=784)
CHAIN = "<observation>o</observation><think>t</think><answer>B</answer>"


def frames(root: Path, folder: str, count: int = 6, **options) -> list[str]:
    """Pictures that grow brighter, named without leading zeros; their paths in order."""
    names = [f"{folder}/frame_{number}.png" for number in range(5, 5 + count)]
    for number, name in enumerate(names):
        write_image(root / name, 84, 56, seed=len(folder) + 20 * number, **options)
    return names


def sample(id: str, video: str | list[str], split: str = "rl", **fields) -> Sample:
    base = {"id": id, "video": video, "question": f"Does {id} pan?", "task": "binary", "options": ["No", "Yes"]}
    chain = CHAIN if split == "sft" else None
    return Sample.model_validate(base | {"answer": "B", "source": "mine", "split": split, "chain": chain} | fields)


def made(root: Path, *cuts: Cut, budget: Budget = BUDGET) -> list[Clip | ClipError]:
    by_cut = dict(normalise_all(cuts, root, root / "store", budget))
    return [by_cut[cut] for cut in cuts]


def pixels(root: Path, clip: Clip) -> np.ndarray:
    return read_clip(root / "store" / clip.video)


def test_a_list_and_the_folder_of_its_frames_are_one_clip_of_the_very_pictures(tmp_path):
    from PIL import Image

    names = frames(tmp_path, "v")
    listed, folder = made(tmp_path, Cut("a name", frames=tuple(names)), Cut("v"))
    assert listed == folder and (listed.frames, listed.step_ms, listed.duration) == (6, 500, 3.0)
    for shown, name in zip(pixels(tmp_path, listed), names):
        assert np.array_equal(shown, np.asarray(Image.open(tmp_path / name)))


def test_a_rate_says_how_long_the_frames_are_shown_and_a_part_counts_in_its_seconds(tmp_path):
    names = tuple(frames(tmp_path, "v", 12))
    whole, part = made(tmp_path, Cut("v", fps=4.0), Cut("n", 1.0, 3.0, 4.0, names))
    assert (whole.frames, whole.duration) == (6, 3.0) and (part.frames, part.duration) == (4, 2.0)
    assert np.array_equal(pixels(tmp_path, part), pixels(tmp_path, whole)[2:])
    (slow,) = made(tmp_path, Cut("v", fps=1.0))
    assert slow.source_sha256 == whole.source_sha256 and (slow.duration, slow.frames) == (12.0, 8)


def test_numbers_in_names_count_by_their_value(tmp_path):
    names = frames(tmp_path, "v", 7)  # frame_5 … frame_11
    assert [f"v/{path.name}" for path in pictures_in(tmp_path / "v")] == names


def test_a_frame_that_changes_is_seen(tmp_path):
    names = frames(tmp_path, "v")
    (before,) = made(tmp_path, Cut("v"))
    write_image(tmp_path / names[2], 84, 56, seed=999)
    (after,) = made(tmp_path, Cut("v"))
    assert before.source_sha256 != after.source_sha256


def test_bad_frames_are_named(tmp_path):
    for folder in ("size", "broken", "text", "gone", "single"):
        frames(tmp_path, folder)
    write_image(tmp_path / "size/frame_7.png", 90, 60)
    (tmp_path / "broken/frame_6.png").write_bytes((tmp_path / "broken/frame_6.png").read_bytes()[:400])
    (tmp_path / "text/frame_8.png").write_text("<html>")
    (tmp_path / "none").mkdir()
    gone = Cut("n", frames=("gone/frame_5.png", "gone/nothing.png"))
    outside = Cut("n2", frames=("gone/frame_5.png", "../frame.png"))
    single = Cut("n3", frames=("single/frame_5.png",))
    write_video(tmp_path / "a.mp4")
    cuts = (Cut("size"), Cut("broken"), Cut("text"), gone, outside, single, Cut("none"), Cut("a.mp4", fps=2.0))
    faults = [str(fault) for fault in made(tmp_path, *cuts)]
    expected = [
        ("shape", "frame_7.png has 90 x 60 pixels, the first frame 84 x 56"),
        ("undecodable", "frame_6.png"),
        ("no_image", "frame_8.png is not an image"),
        ("missing", "gone/nothing.png"),
        ("outside", "../frame.png leads out of the media root"),
        ("one_frame", "has a single frame"),
        ("no_video", "none is a folder without pictures"),
        ("fps", "leave fps out"),
    ]
    for fault, (reason, text) in zip(faults, expected, strict=True):
        assert fault.startswith(f"{reason}: ") and text in fault


def test_links_of_frames_stay_inside(tmp_path):
    root = tmp_path / "root"
    frames(root, "v")
    (root / "v/frame_9.png").unlink()
    (root / "v/frame_9.png").symlink_to(write_image(tmp_path / "elsewhere.png", 84, 56))
    (fault,) = made(root, Cut("v"))
    assert isinstance(fault, ClipError) and fault.reason == "outside"
    (clip,) = dict(normalise_all([Cut("v")], root, root / "store", BUDGET, links_into=[tmp_path])).values()
    assert isinstance(clip, Clip)


def test_a_record_gives_frames_as_its_video_and_is_read_back_the_same():
    record = json.loads(sample_line(sample("a", "v.mp4"))) | {"video": ["v/1.jpg", "v/2.jpg"], "fps": 2}
    read = parse_sample(json.dumps(record).encode())
    assert (read.video, read.frames, read.fps, read.shows) == (None, ["v/1.jpg", "v/2.jpg"], 2.0, "frames")
    assert parse_sample(sample_line(read).encode()) == read
    other = read.model_copy(update={"frames": ["v/1.jpg", "v/3.jpg", "v/2.jpg"]})
    assert read.shown != other.shown and len(read.media) == 1
    for wrong, reason in (
        ({"images": ["a.png"]}, "a video or images, not both"),
        ({"video": ["v/1.jpg", "/abs/2.jpg"]}, "must be relative"),
        ({"fps": 0}, "fps: "),
        ({"video": []}, "video: is missing"),
    ):
        with pytest.raises(FieldError, match=reason):
            parse_sample(json.dumps(record | wrong).encode())


def test_check_and_stage_data_agree_on_frames(tmp_path):
    """Good ones, a copy in another split, a broken one, and a moment after the end, with a rate and without."""
    root = tmp_path / "media"
    for folder in ("sft", "rl", "test", "bad"):
        frames(root, folder)
    (root / "bad/frame_8.png").write_bytes((root / "bad/frame_8.png").read_bytes()[:400])
    listed = [f"rl/frame_{number}.png" for number in range(5, 11)]
    samples = {
        "sft": [sample("s", "sft", "sft")],
        "rl": [sample("r", listed, fps=2.0), sample("folder", "rl"), sample("bad", "bad")],
        "test": [sample("t", "test", "test", fps=2.0, start=1.0)],
    }
    for split, its in samples.items():
        write_samples(tmp_path / f"{split}.jsonl", its)
    paths = [tmp_path / f"{split}.jsonl" for split in samples]
    found = check_files(paths, tmp_path / "out", root)
    assert (found.kept, found.quarantined, found.notes["a video given as its frames"]) == (4, 1, 4)
    assert "frame_8.png" in (tmp_path / "out/quarantine.jsonl").read_text()

    run, said = RunFolder(tmp_path / "run"), list[str]()
    labels = {split: [LabelFile(tmp_path / f"{split}.jsonl")] for split in samples}
    wanted = Wanted(Form(reward={"name": "camreasoner"}))
    videos = Videos(root, tmp_path / "store", BUDGET, 0.5)
    counts = prepare_files(run, labels, videos, wanted, ALL_CORES, said.append, lambda done, total: None)
    assert counts == {"sft": 1, "rl": 2, "test": 1}
    (left_out,) = [json.loads(line) for line in run.quarantine.read_text().splitlines()]
    assert (left_out["record"], left_out["field"]) == ("bad", "video") and "frame_8.png" in left_out["reason"]
    first, second = read_samples(run.samples("rl"))
    assert first.video == second.video and first.extras["source_frames"] == listed and not first.frames
    assert next(iter(read_samples(run.samples("test")))).duration == 2.0
    assert [len(row["videos"]) for row in pq.read_table(run.verl_data("rl")).to_pylist()] == [1, 1]

    late = sample("late", listed, fps=2.0, task="temporal_grounding", options=[], answer="", spans=[[3.5, 4.0]])
    write_samples(tmp_path / "late.jsonl", [late, late.model_copy(update={"id": "unknown", "fps": None})])
    assert check_files([tmp_path / "late.jsonl"], tmp_path / "out2", root).kept == 1  # no rate, no length
    write_samples(tmp_path / "copy.jsonl", [sample("copy", "rl", "test")])
    found = check_files([tmp_path / "rl.jsonl", tmp_path / "copy.jsonl"], tmp_path / "out3", root)
    assert found.kept == 1 and ("split", "leak") in found.reasons

"""Folders of pictures as clips, for data sets that publish videos so."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.cli import UsageError, parse
from data_tools.frames import FramesArguments, FramesError, main, spread
from data_tools.media.budget import Budget
from data_tools.media.normalise import normalise
from data_tools.rendered.scene import read_clip

EIGHT = Budget(fps=2.0, max_frames=8, min_frames=8, max_pixels=12544, min_pixels=784)


def pictures(folder: Path, count: int, size: tuple[int, int] = (112, 84)) -> Path:
    """Grey pictures, each brighter than the one before, named as GOT-10k names them."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (number * 255 // count,) * 3).save(folder / f"{number + 1:08d}.jpg", quality=95)
    (folder / "groundtruth.txt").write_text("1,2,3,4\n")
    return folder


def run(*arguments: object) -> None:
    main(parse(FramesArguments, [str(argument) for argument in arguments]))


def shades(video: Path) -> list[int]:
    return [round(float(frame.mean())) for frame in read_clip(video)]


def test_eight_pictures_of_a_sequence_are_what_tracking_sees(tmp_path, capsys):
    pictures(tmp_path / "GOT-10k/val/GOT-10k_Val_000001", 100)
    run(tmp_path / "GOT-10k/val", f"to={tmp_path / 'got'}", "frames=8", "fps=2")
    assert "1 folders = 1 clips" in capsys.readouterr().err
    clip = normalise(tmp_path / "got/GOT-10k_Val_000001.mp4", EIGHT, tmp_path / "store")
    assert (clip.frames, clip.step_ms, clip.width, clip.height) == (8, 500, 112, 84)
    expected = [number * 255 // 100 for number in (0, 14, 28, 42, 56, 70, 84, 99)]
    assert shades(tmp_path / "store" / clip.video) == pytest.approx(expected, abs=2)


def test_seven_pictures_become_eight_frames_as_in_the_authors_code(tmp_path):
    """First, five between and last: the vision tower takes pairs, so the last is seen twice."""
    pictures(tmp_path / "raw/a", 61)
    run(tmp_path / "raw", f"to={tmp_path / 'got'}", "frames=7", "fps=2")
    clip = normalise(tmp_path / "got/a.mp4", EIGHT, tmp_path / "store")
    expected = [number * 255 // 61 for number in (0, 10, 20, 30, 40, 50, 60, 60)]
    assert shades(tmp_path / "store" / clip.video) == pytest.approx(expected, abs=2)
    step = (61 - 1) / 6
    assert spread(61, 7) == [0, *(int(i * step) for i in range(1, 6)), 60]


def test_all_pictures_are_taken_unless_a_number_is_given(tmp_path):
    pictures(tmp_path / "raw/tvqa/clip", 9)
    run(tmp_path / "raw", f"to={tmp_path / 'out'}", "fps=3")
    assert len(read_clip(tmp_path / "out/clip.mp4")) == 9


def test_folders_that_are_no_clips_are_listed_with_their_reasons(tmp_path, capsys):
    pictures(tmp_path / "raw/good", 4)
    pictures(tmp_path / "raw/single", 1)
    Image.new("RGB", (64, 64)).save(pictures(tmp_path / "raw/sizes", 3) / "9.jpg")
    (pictures(tmp_path / "raw/broken", 3) / "2.jpg").write_text("<html>")
    run(tmp_path / "raw", f"to={tmp_path / 'out'}", "fps=2")
    assert "4 folders = 1 clips" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out/raw.quarantine.jsonl").read_text().splitlines()]
    assert {line["record"]: line["reason"].partition(":")[0] for line in lines} == {
        "broken": "undecodable",
        "single": "one_frame",
        "sizes": "shape",
    }
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["good.mp4", "raw.quarantine.jsonl"]


def test_what_cannot_be_done_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FramesError, match="no folder in it holds pictures"):
        run(tmp_path / "empty", f"to={tmp_path / 'out'}", "fps=2")
    with pytest.raises(FramesError, match="is not a folder"):
        run(tmp_path / "gone", f"to={tmp_path / 'out'}", "fps=2")
    pictures(tmp_path / "raw/train/a", 2)
    pictures(tmp_path / "raw/val/a", 2)
    with pytest.raises(FramesError, match="would both become a.mp4"):
        run(tmp_path / "raw", f"to={tmp_path / 'out'}", "fps=2")
    with pytest.raises(UsageError, match="fps"):
        run(tmp_path / "raw", f"to={tmp_path / 'out'}")


def test_bytes_are_copied(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    folder = pictures(tmp_path / "raw/a", 2, (96, 64))
    Image.fromarray(noise).save(folder / "00000002.jpg", quality=60)
    run(tmp_path / "raw", f"to={tmp_path / 'out'}", "fps=2")
    assert (folder / "00000002.jpg").read_bytes() in (tmp_path / "out/a.mp4").read_bytes()

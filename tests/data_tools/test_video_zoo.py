"""Videos of many kinds: the check and the data stage agree on each, and show what ffmpeg shows."""

import numpy as np
import pytest
from video_zoo import FILES, ffmpeg_decode, make

from data_tools.media.budget import Budget
from data_tools.media.child import ClipError
from data_tools.media.normalise import normalise
from data_tools.media.probe import probe_here
from data_tools.rendered.scene import read_clip

BUDGET = Budget(fps=4.0, max_frames=64, min_frames=4, max_pixels=28 * 28 * 24, min_pixels=784)
REFUSED = {
    "pq.mp4": "hdr",
    "hlg.mkv": "hdr",
    "turned_45.mp4": "turned",
    "half.mkv": "truncated",
    "half.webm": "truncated",
    "half.flv": "truncated",
    "half.avi": "truncated",
    "half.mp4": "truncated",
}
FAST = (
    *("h264.avi", "h264.ts", "raw.h264", "av1.mp4", "movie.gif", "small.mp4", "bt709_full.mp4", "bt2020.mp4"),
    *("cut_early.mp4", "cut_b_frames.mp4", "trimmed.mp4", "tuned_in.ts", "turned_mirrored.mp4", "wide_pixels.mp4"),
    *("late.mp4", "stays.mp4", "half.mkv", "turned_45.mp4"),
)


def lanes(names) -> list:
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.e2e) for name in sorted(names)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize("name", lanes(FILES.keys() - REFUSED.keys() - {"cover.png"}))
def test_a_clip_shows_what_ffmpeg_shows_at_its_times(zoo, name):
    path = make(zoo, name)
    clip, info = normalise(path, BUDGET, zoo / "store"), probe_here(path)
    expected = ffmpeg_decode(path, clip.width, clip.height)
    assert info.duration == clip.duration == pytest.approx(expected.end, abs=0.07)  # containers round to milliseconds
    assert info.frames == len(expected.seconds)
    ours = read_clip(zoo / "store" / clip.video).astype(int)
    for number in range(clip.frames):
        second = min(number * clip.step_ms / 1000, clip.duration - 1e-4)
        difference = np.abs(expected.frames - ours[number])
        assert difference.mean((1, 2, 3)).argmin() == expected.at(second), f"at {second} s"
        assert patches(difference[expected.at(second)]).max() <= 4, f"colours at {second} s"


def patches(difference: np.ndarray) -> np.ndarray:
    """Medians over the middles of the corners, where the colours are."""
    height, width, _ = difference.shape
    low, high, left, right = height // 12, height // 5, width // 16, width // 8
    corners = (
        (y, x) for y in (slice(low, high), slice(-high, -low)) for x in (slice(left, right), slice(-right, -left))
    )
    return np.array([np.median(difference[y, x], (0, 1)) for y, x in corners])


@pytest.mark.parametrize("name", lanes(REFUSED))
def test_check_and_data_stage_refuse_a_video_for_the_same_reason(zoo, name):
    path, faults = make(zoo, name), []
    for work in (probe_here, lambda video: normalise(video, BUDGET, zoo / "store")):
        with pytest.raises(ClipError) as caught:
            work(path)
        faults.append(str(caught.value))
    assert faults[0] == faults[1] and faults[0].startswith(REFUSED[name])


def test_the_zoo_is_large():
    assert len(FILES.keys() - REFUSED.keys() - {"cover.png"}) >= 60

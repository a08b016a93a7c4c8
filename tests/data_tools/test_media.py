"""Videos in the media budget: which frames, at which times and sizes, and what becomes of videos that are broken."""

import json
import os
from dataclasses import asdict, replace
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_videos import rotated, truncated, without_rate, write_audio, write_video

from data_tools.media import store as store_module
from data_tools.media.budget import Budget, MediaError, sampling
from data_tools.media.child import ClipError
from data_tools.media.normalise import Clip, clip_name, normalise
from data_tools.media.parallel import Threads
from data_tools.media.store import normalise_all, require_budget, write_manifest
from data_tools.rendered.scene import read_clip
from data_tools.sample import Cut

BUDGET = Budget(fps=2.0, max_frames=8, min_frames=4, max_pixels=28 * 28 * 12, min_pixels=784)
budgets = st.builds(
    lambda fps, pairs, fewest, tokens, share, sampler: Budget(
        fps=fps,
        max_frames=2 * pairs,
        min_frames=2 * min(fewest, pairs),
        max_pixels=784 * tokens,
        min_pixels=784 * tokens // share,
        sampler=sampler,
    ),
    fps=st.sampled_from([0.5, 1.0, 2.0, 4.0, 5.0, 8.0, 10.0]),
    pairs=st.integers(1, 64),
    fewest=st.integers(1, 8),
    tokens=st.integers(4, 768),
    share=st.integers(4, 100),
    sampler=st.sampled_from(["uniform", "head"]),
)


# ---------------------------------------------------------------- which frames


@given(st.floats(0.02, 4000), budgets)
def test_a_video_is_covered_to_its_end_in_pairs_of_frames(duration, budget):
    frames, step = sampling(duration, budget)
    assert frames % 2 == 0 and budget.min_frames <= frames <= budget.max_frames
    seen = min(duration, budget.max_frames / budget.fps) if budget.sampler == "head" else duration
    if step == budget.step_ms:
        assert -0.5 * step - 1 <= frames * step - 1000 * seen <= 1.5 * step + 1  # half a step less, a pair more
    else:
        assert abs(frames * step - 1000 * seen) <= 0.5 * frames + 1  # steps are whole milliseconds
        assert frames in (budget.min_frames, budget.max_frames)


def test_how_many_frames_a_video_gives():
    one = Budget(fps=1.0, max_frames=64, min_frames=4, max_pixels=262144, min_pixels=3136)
    assert sampling(10.0, one) == (10, 1000)
    assert sampling(10.01, one) == (10, 1000)  # 300 frames at 29.97 fps
    assert sampling(10.7, one) == (12, 1000)
    assert sampling(1.0, one) == (4, 250)  # too short: denser
    assert sampling(128.0, one) == (64, 2000)  # too long: thinned out
    assert sampling(128.0, replace(one, sampler="head")) == (64, 1000)
    assert sampling(100.0, replace(one, max_frames=30)) == (30, 3333)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 3.0}, "fps 3: 1000 / fps must be a whole number"),
        ({"max_frames": 7}, "in pairs"),
        ({"min_frames": 10}, "min_frames 10 must lie"),
        ({"max_pixels": 700_000}, "602112, beyond which"),
        ({"token_side": 32, "max_frames": 256, "max_pixels": 100_000}, "98304, beyond which"),  # 25,165,824 in all
        ({"max_pixels": 500}, "784 .one visual token"),
        ({"min_pixels": 9000}, "min_pixels 9000"),
    ],
)
def test_budgets_that_no_loader_keeps_are_refused(change, message):
    with pytest.raises(MediaError, match=message):
        replace(BUDGET, **change)


# ---------------------------------------------------------------- what a clip holds


@pytest.mark.parametrize("group", ["ipb", "intra", "open"])
def test_a_clip_holds_the_very_frames_of_its_times(tmp_path, group):
    """Whatever the decoder may skip: frames that none refers to, and stretches that nothing is taken from."""
    options = {"ipb": {"bf": "3"}, "intra": {"g": "1"}, "open": {"bf": "3", "g": "12", "x264-params": "open-gop=1"}}
    path = tmp_path / "a.mp4"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (72, 96, 3), np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"threads": "1", **options[group]})
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for number in range(120):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, 3 * number, axis=1), format="rgb24")))
        file.mux(stream.encode())
    clip = normalise(path, BUDGET, tmp_path)
    assert (clip.frames, clip.step_ms, clip.width, clip.height) == (8, 1500, 84, 84)
    with av.open(str(path)) as file:
        frames = [f.reformat(84, 84, "rgb24", interpolation="BICUBIC").to_ndarray() for f in file.decode(video=0)]
    np.testing.assert_array_equal(read_clip(tmp_path / clip.video), np.stack(frames[::15]))


def test_times_stay_true_at_a_variable_frame_rate(tmp_path):
    times = [0, 40, 80, 1000, 1040, 1900, 1950, 3000, 3900]
    path = write_video(tmp_path / "a.mp4", len(times), times_ms=times)
    clip = normalise(path, BUDGET, tmp_path)
    facts = json.loads((tmp_path / clip.video).with_suffix(".json").read_text())
    shown = [max(t for t in times if t <= clip.step_ms * k) / 1000 for k in range(clip.frames)]
    assert facts["source_seconds"] == pytest.approx(shown)
    assert facts["budget"] == vars(BUDGET) and facts["clip"] == asdict(clip)
    with av.open(str(tmp_path / clip.video)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == Fraction(1000, clip.step_ms) and stream.frames == clip.frames


def test_a_video_is_turned_as_players_turn_it(tmp_path):
    clip = normalise(rotated(tmp_path / "r.mp4"), BUDGET, tmp_path)
    plain = normalise(write_video(tmp_path / "p.mp4"), BUDGET, tmp_path)
    assert (clip.width, clip.height) == (plain.height, plain.width)
    turned, upright = read_clip(tmp_path / clip.video), read_clip(tmp_path / plain.video)
    with av.open(str(tmp_path / "r.mp4")) as file:
        quarter_turns = round(next(file.decode(video=0)).rotation / 90)
    np.testing.assert_array_equal(turned, np.rot90(upright, quarter_turns, axes=(1, 2)))


def test_ten_bits_and_an_avi_without_time_stamps(tmp_path):
    assert normalise(write_video(tmp_path / "a.mp4", pixel_format="yuv420p10le"), BUDGET, tmp_path).frames == 4
    path = write_video(tmp_path / "b.avi", frames=20)
    clip = normalise(path, BUDGET, tmp_path)
    assert (clip.frames, clip.step_ms, clip.duration) == (6, 500, 2.5)
    small = replace(BUDGET, max_pixels=28 * 28 * 48)
    clip = normalise(path, small, tmp_path)
    with av.open(str(path)) as file:
        size = clip.width, clip.height
        expected = [f.reformat(*size, "rgb24", interpolation="BICUBIC").to_ndarray() for f in file.decode(video=0)]
    np.testing.assert_array_equal(read_clip(tmp_path / clip.video), np.stack(expected)[[0, 4, 8, 12, 16, 19]])


def test_names_tell_content_budget_and_nothing_else(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    clip = normalise(path, BUDGET, tmp_path / "store")
    before = (tmp_path / "store" / clip.video).stat().st_mtime_ns
    path.rename(tmp_path / "b.mp4")
    assert normalise(tmp_path / "b.mp4", BUDGET, tmp_path / "store") == clip
    assert (tmp_path / "store" / clip.video).stat().st_mtime_ns == before
    assert clip_name("0", BUDGET) != clip_name("1", BUDGET) != clip_name("1", replace(BUDGET, sampler="head"))
    content = (tmp_path / "store" / clip.video).read_bytes()
    again = normalise(tmp_path / "b.mp4", BUDGET, tmp_path / "other")
    assert (tmp_path / "other" / again.video).read_bytes() == content
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("options", [{}, {"bf": "3"}])
def test_a_part_of_a_video_is_what_is_shown_between_its_seconds(tmp_path, options):
    path = write_video(tmp_path / "a.mp4", frames=80, **options)  # 10 s
    whole = normalise(path, BUDGET, tmp_path)
    part = normalise(path, BUDGET, tmp_path, 2.5, 6.0)
    assert part.video != whole.video and part.source_sha256 == whole.source_sha256
    assert (part.duration, part.frames, part.step_ms) == (3.5, 8, 500)  # 7 frames at the budget's rate, in pairs
    facts = json.loads((tmp_path / part.video).with_suffix(".json").read_text())
    assert facts["source_seconds"] == pytest.approx([2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 5.875])
    with av.open(str(path)) as file:
        size = (part.width, part.height, "rgb24")
        frames = [f.reformat(*size, interpolation="BICUBIC").to_ndarray() for f in file.decode(video=0)]
    shown = [round(8 * second) for second in facts["source_seconds"]]
    np.testing.assert_array_equal(read_clip(tmp_path / part.video), np.stack(frames)[shown])
    to_the_end = normalise(path, BUDGET, tmp_path, start=7.0)
    assert to_the_end.duration == normalise(path, BUDGET, tmp_path, 7.0, 99.0).duration == 3.0
    assert normalise(path, BUDGET, tmp_path, end=1.0).duration == 1.0
    for bounds, reason in (((10.0, 12.0), "after_end"), ((1.0, 1.01), "one_frame")):
        with pytest.raises(ClipError) as error:
            normalise(path, BUDGET, tmp_path, *bounds)
        assert error.value.reason == reason


# ---------------------------------------------------------------- many videos


def by_name(videos, root, store, *settings, **more) -> dict:
    made = normalise_all([Cut(video) for video in videos], root, store, BUDGET, *settings, **more)
    return {cut.video: answer for cut, answer in made}


def test_broken_videos_are_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    root, store = tmp_path / "videos", tmp_path / "store"
    root.mkdir()
    write_video(tmp_path / "outside.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "zero.mp4").touch()
    (root / "page.mp4").write_text("<!doctype html><html></html>")
    write_audio(root / "audio.mp4")
    write_video(root / "single.mp4", frames=1)
    without_rate(root / "no_rate.mp4")
    truncated(root / "cut.mp4", 0.5)
    write_video(root / "narrow.mp4", width=1600, height=2)
    for name in ("a", "b"):
        write_video(root / f"{name}.mp4", seed=ord(name))
    videos = sorted(path.name for path in root.iterdir()) + ["../outside.mp4", "gone.mp4"]
    seen = []
    found = by_name(videos, root, store, Threads(2), progress=lambda *done: seen.append(done))
    assert found.keys() == set(videos) and seen[-1] == (len(videos), len(videos))
    reasons = {name: answer.reason for name, answer in found.items() if isinstance(answer, ClipError)}
    assert reasons == {
        "../outside.mp4": "outside",
        "audio.mp4": "no_video",
        "cut.mp4": "truncated",
        "gone.mp4": "missing",
        "link.mp4": "outside",
        "narrow.mp4": "shape",
        "no_rate.mp4": "no_rate",
        "page.mp4": "no_video",
        "single.mp4": "one_frame",
        "zero.mp4": "empty",
    }
    assert {name for name, answer in found.items() if isinstance(answer, Clip)} == {"a.mp4", "b.mp4"}
    assert all((store / found[name].video).exists() for name in ("a.mp4", "b.mp4"))

    # A second run asks for what has changed alone, also after a line that was cut off.
    with (store / "log.jsonl").open("a") as log:
        log.write('{"source": "half a li')
    (store / found["b.mp4"].video).unlink()
    write_video(root / "zero.mp4")
    asked = []
    monkeypatch.setattr(store_module, "ask_child", lambda path, *_: asked.append(path.name) or asdict(found["a.mp4"]))
    again = by_name(videos, root, store, Threads(1))
    assert sorted(asked) == ["b.mp4", "zero.mp4"]
    assert str(again["cut.mp4"]) == str(found["cut.mp4"]) and again["a.mp4"] == found["a.mp4"]
    monkeypatch.setattr(store_module, "ask_child", None)
    assert len(by_name(["a.mp4", "zero.mp4"], root, store)) == 2  # the log's end is whole again


def test_parts_of_one_video_are_clips_of_their_own(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", frames=80)
    cuts = [Cut("a.mp4"), Cut("a.mp4", 1.0, 4.0), Cut("a.mp4", 1.0, 5.0), Cut("a.mp4", 20.0)]
    made = dict(normalise_all(cuts, tmp_path, tmp_path / "store", BUDGET, Threads(1)))
    assert [made[cut].duration for cut in cuts[:3]] == [10.0, 3.0, 4.0]
    assert len({made[cut].video for cut in cuts[:3]}) == 3
    assert made[cuts[3]].reason == "after_end" and "from 20 s on, but ends at 10.00 s" in str(made[cuts[3]])
    monkeypatch.setattr(store_module, "ask_child", None)  # all are known
    again = dict(normalise_all(cuts, tmp_path, tmp_path / "store", BUDGET, Threads(1)))
    assert list(map(str, again.values())) == list(map(str, made.values()))


def test_a_video_that_takes_too_long_is_given_up_and_asked_again(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write_video(tmp_path / "a.mp4", frames=400)
    (_, answer), *_ = normalise_all([Cut("a.mp4")], tmp_path, tmp_path / "store", BUDGET, Threads(1), timeout_s=0.001)
    assert isinstance(answer, ClipError) and answer.reason == "timeout"
    (_, answer), *_ = normalise_all([Cut("a.mp4")], tmp_path, tmp_path / "store", BUDGET, Threads(1))
    assert isinstance(answer, Clip)
    (_, answer), *_ = normalise_all([Cut("pipe")], tmp_path, tmp_path / "store", BUDGET, Threads(1))
    assert answer.reason == "no_file"


def test_clips_of_another_budget_are_refused(tmp_path):
    with pytest.raises(MediaError, match="media.json is missing"):
        require_budget(tmp_path, BUDGET)
    write_manifest(tmp_path, BUDGET, 3)
    require_budget(tmp_path, BUDGET)
    with pytest.raises(
        MediaError, match=r"made with: fps 2\.0.*sampler uniform.*\n.*asked for: fps 2\.0.*sampler head"
    ):
        require_budget(tmp_path, replace(BUDGET, sampler="head"))

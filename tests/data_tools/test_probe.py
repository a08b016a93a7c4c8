import os
import pickle
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import made_videos as clips
import pytest
from PIL import Image

from data_tools.media import child as module
from data_tools.media.child import ClipError, clip_path
from data_tools.media.parallel import Threads
from data_tools.media.probe import ClipInfo, probe, probe_all
from data_tools.sample import Cut

ECHO_OR_HANG = (
    sys.executable,
    "-c",
    """
import json, sys, time
print("{}", flush=True)
for line in sys.stdin:
    path = json.loads(line)["path"]
    if "hang" in path: time.sleep(60)
    if "crash" in path: sys.exit(3)
    print(json.dumps({"reason": "echo", "message": path}), flush=True)
""",
)


@pytest.fixture
def no_idle_children():
    module._idle.clear()
    yield
    while module._idle:
        module._idle.pop().close()


def fault(path, **settings) -> str:
    with pytest.raises(ClipError) as caught:
        probe(path, **settings)
    return caught.value.reason


def test_a_video_is_measured(tmp_path):
    info = probe(clips.write_video(tmp_path / "a.mp4", frames=12, fps=8))
    assert (info.frames, info.width, info.height, info.codec, info.rotation) == (12, 96, 64, "h264", 0)
    assert info.fps == pytest.approx(8) and info.duration == pytest.approx(1.5)
    assert not info.variable_frame_rate and len(info.sha256) == 64
    assert probe(clips.write_video(tmp_path / "b.mp4", frames=12, fps=8)).sha256 == info.sha256


def test_unusual_videos_are_told_apart(tmp_path):
    uneven = probe(clips.write_video(tmp_path / "vfr.mp4", frames=6, times_ms=[0, 100, 150, 400, 900, 1000]))
    assert uneven.variable_frame_rate and uneven.fps == pytest.approx(5)  # 5 steps in 1 s
    turned = probe(clips.rotated(tmp_path / "turned.mp4"))
    assert turned.rotation == 270 and (turned.width, turned.height) == (64, 96)
    upright = probe(clips.write_video(tmp_path / "upright.mp4", width=64, height=96))
    assert upright.height > upright.width and upright.rotation == 0
    assert probe(clips.write_video(tmp_path / "deep.mp4", pixel_format="yuv420p10le")).pixel_format == "yuv420p10le"


def test_what_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("\ufeff <!DOCTYPE html><title>Access denied</title>")
    (tmp_path / "junk.mp4").write_bytes(bytes(range(256)) * 20)
    os.mkfifo(tmp_path / "pipe.mp4")
    faults = {
        "gone": tmp_path / "gone.mp4",
        "empty": tmp_path / "empty.mp4",
        "page": tmp_path / "page.mp4",
        "junk": tmp_path / "junk.mp4",
        "pipe": tmp_path / "pipe.mp4",
        "audio": clips.write_audio(tmp_path / "audio.mp4"),
        "one": clips.write_video(tmp_path / "one.mp4", frames=1),
        "no rate": clips.without_rate(tmp_path / "rateless.mp4"),
        "half": clips.truncated(tmp_path / "half.mp4", 0.5),
        "nearly": clips.truncated(tmp_path / "nearly.mp4", 0.98),
    }
    assert {name: fault(path) for name, path in faults.items()} == {
        "gone": "missing",
        "empty": "empty",
        "page": "no_video",
        "junk": "undecodable",
        "pipe": "no_file",
        "audio": "no_video",
        "one": "one_frame",
        "no rate": "no_rate",
        "half": "truncated",
        "nearly": "undecodable",
    }
    assert probe(clips.write_video(tmp_path / "good.mp4")).frames == 8  # the child has survived them all


@pytest.mark.parametrize(
    ("there", "asked", "hint"),
    [
        ("Clip.MP4", "clip.mp4", "is 'Clip.MP4' meant?"),
        ("clip.mp4", "clip", "is 'clip.mp4' meant?"),
        ("e\u0301.mp4", "\u00e9.mp4", r"its name is there in another Unicode form, 'e\u0301.mp4': rename it"),
        ("other.mp4", "clip.mp4", "No such file or directory"),
    ],
)
def test_a_missing_file_that_is_there_in_other_letters_is_named(there, asked, hint, tmp_path):
    (tmp_path / there).touch()
    with pytest.raises(ClipError, match=f"missing: .*{re.escape(hint)}" + ("$" if there[0] == "o" else "")):
        probe(tmp_path / asked)


def test_an_animated_webp_is_told_from_a_clip_of_one_frame(tmp_path):
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (0, 90, 180)]
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(ClipError, match="animated WebP FFmpeg reads no more: save it as GIF or MP4"):
        probe(tmp_path / "clip.webp")


def test_a_time_limit_ends_a_decoder_that_hangs(tmp_path, no_idle_children):
    for name in ("hang", "crash", "fine"):
        (tmp_path / name).write_bytes(b"x")
    begin = time.monotonic()
    assert fault(tmp_path / "hang", timeout_s=0.2, command=ECHO_OR_HANG) == "timeout"
    assert time.monotonic() - begin < 5
    assert not module._idle  # the next question starts another one
    assert fault(tmp_path / "crash", command=ECHO_OR_HANG) == "crash"
    assert fault(tmp_path / "fine", command=ECHO_OR_HANG) == "echo"
    assert len(module._idle) == 1


def test_a_decoder_that_gets_little_of_its_core_has_the_longer(tmp_path, no_idle_children, monkeypatch):
    """What counts is what it computes for; one that computes nothing hangs."""
    answer = """'{"reason": "late", "message": ""}'"""
    code = "import sys, time; print('{}', flush=True); sys.stdin.readline(); time.sleep(0.5); "
    code += f"print({answer}, flush=True)"
    (tmp_path / "fine").write_bytes(b"x")
    computed = count(step=0.001)
    monkeypatch.setattr(module, "PATIENCE", 1000)
    monkeypatch.setattr(module, "_cpu_seconds", lambda process: next(computed))
    assert fault(tmp_path / "fine", timeout_s=0.1, command=(sys.executable, "-c", code)) == "late"
    monkeypatch.setattr(module, "_cpu_seconds", lambda process: 0.0)
    assert fault(tmp_path / "fine", timeout_s=0.1, command=(sys.executable, "-c", code + " ")) == "timeout"


def test_the_time_limit_holds_for_the_real_decoder(tmp_path, no_idle_children):
    path = clips.write_video(tmp_path / "a.mp4", frames=60, width=640, height=480)
    assert fault(path, timeout_s=0.001) == "timeout" and not module._idle
    assert probe(path).frames == 60


def test_children_serve_many_callers(tmp_path, no_idle_children):
    path = clips.write_video(tmp_path / "a.mp4")
    with ThreadPoolExecutor(2) as pool:
        infos = list(pool.map(probe, [path] * 12))
    assert len(set(infos)) == 1 and 1 <= len(module._idle) <= 2


def test_a_child_that_does_not_start_is_an_error(tmp_path, no_idle_children):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="does not start"):
        probe(tmp_path / "a", command=(sys.executable, "-c", ""))


def test_paths_stay_under_the_media_root(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    clips.write_video(tmp_path / "secret.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "inner.mp4").symlink_to(clips.write_video(root / "a.mp4"))
    for video in ("link.mp4", "../secret.mp4", str(tmp_path / "secret.mp4")):
        with pytest.raises(ClipError, match="outside"):
            clip_path(root, video)
    assert clip_path(root, "inner.mp4") == root / "inner.mp4"


def test_links_are_followed_into_the_folders_that_are_named(tmp_path):
    """As the Hugging Face hub keeps its files: snapshots/<revision>/<name> is a link to blobs/<hash>."""
    root, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    for folder in (root, blobs, tmp_path / "blobs_of_others"):
        folder.mkdir(parents=True)
    clips.write_video(tmp_path / "a.mp4").rename(blobs / "1f")
    (root / "a.mp4").symlink_to("../../blobs/1f")
    (root / "b.mp4").symlink_to(tmp_path / "blobs_of_others" / "2f")
    assert clip_path(root, "a.mp4", [blobs]) == root / "a.mp4"
    for video, roots in (("a.mp4", []), ("b.mp4", [blobs]), ("../../blobs/1f", [blobs])):
        with pytest.raises(ClipError, match="outside"):
            clip_path(root, video, roots)
    cuts, cache = [Cut("a.mp4")], tmp_path / "probes.jsonl"
    ask = partial(probe_all, ClipInfo, cuts, root, cache, Threads(1), 60, lambda done, total: None)
    ((_, fault),) = ask()
    assert f"to {blobs / '1f'}: name a folder of it in links_into" in str(fault)
    ((_, found),) = ask([blobs])  # the refusal is not remembered
    assert found.frames > 1


def test_faults_travel_between_processes():
    fault = pickle.loads(pickle.dumps(ClipError("empty", "a.mp4 is empty")))
    assert (fault.reason, fault.message, str(fault)) == ("empty", "a.mp4 is empty", "empty: a.mp4 is empty")

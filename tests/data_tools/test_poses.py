"""Pose files: what they say is what the camera does, and what is wrong with one is said."""

from dataclasses import replace
from math import cos, radians, sin
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from made_poses import write_npz, write_tum

from data_tools.media.budget import Budget
from data_tools.media.normalise import Clip
from data_tools.pose_files import PoseError, pose_files, read_poses
from data_tools.poses import PoseFolder, Seen, counts_of, motions_of, summary_of, track_of, with_motion
from data_tools.rendered.scene import draw_track
from data_tools.sample import Cut, FieldError, Sample, parse_sample
from data_tools.tracks import motion_of_track, rotation, span_of_track
from rewards.motions import PRIMITIVES

VIDEO, BUDGET = Cut("a.mp4"), Budget(2.0, 16, 4, 7056, 784)
# By hand, as the RGB-D benchmark of TUM writes them: a camera that looks along the world's x walks that way.
WALK = """\
# ground truth trajectory
# timestamp tx ty tz qx qy qz qw
0.0000 1.0000 0.2000 -3.0000 0.0000 0.7071 0.0000 0.7071
0.4000 1.3000 0.2000 -3.0000 0.0000 0.7071 0.0000 0.7071

0.8000 1.6100 0.2000 -3.0000 0.0000 -0.7071 0.0000 -0.7071   # the same rotation
1.2000 1.8900 0.2000 -3.0000 0.0000 0.7071 0.0000 0.7071
1.6000 2.2000 0.2000 -3.0000 0.0000 0.7071 0.0000 0.7071
"""


def clip_of(frames: int, fps: float = 2.0) -> Clip:
    return Clip("c.mp4", frames, round(1000 / fps), 56, 56, frames / fps, "")


def shown(folder, cut: Cut, clip: Clip, **settings):
    """What the pose files of a folder say of one clip."""
    given = {"depth": 4.0, "field_of_view": 62.0, "still": 0.015}
    return motions_of({(cut, BUDGET): clip}, PoseFolder(folder, **(given | settings)))[cut, BUDGET]


@pytest.mark.parametrize("motion", PRIMITIVES)
def test_a_rendered_track_gets_the_same_motion_from_either_form(motion, tmp_path):
    for seed in range(6):
        track = draw_track(motion, np.random.default_rng(seed), frames=6)
        write_npz(tmp_path / "a.npz", track, **({"fps": track.fps} if seed % 2 else {}))
        assert shown(tmp_path, VIDEO, clip_of(6)).motion == motion_of_track(track) == motion
        (tmp_path / "a.npz").unlink()
        if not motion.startswith("zoom"):  # of which TUM's form says nothing
            write_tum(tmp_path / "a.txt", track)
            assert shown(tmp_path, VIDEO, clip_of(6)).motion == motion
            (tmp_path / "a.txt").unlink()


@pytest.mark.parametrize("form", [write_tum, write_npz])
def test_a_part_of_a_video_gets_the_motion_of_that_part(form, tmp_path):
    path = tmp_path / ("a.txt" if form is write_tum else "a.npz")
    for seed in range(6):
        track = draw_track("truck_left", np.random.default_rng(seed), frames=16, span=(2.0, 5.0))
        form(path, track, **({"fps": 2.0} if form is write_npz else {}))
        for start, end, motion in ((0.0, 2.0, "static"), (2.0, 5.0, "truck_left"), (5.5, 8.0, "static")):
            cut, clip = Cut("a.mp4", start, end), clip_of(round(2 * (end - start)))
            assert shown(tmp_path, cut, clip).motion == motion
        whole = track_of(read_poses(path), VIDEO, clip_of(16), 62.0)
        assert span_of_track(replace(whole, focal_T=track.focal_T / track.size)) == span_of_track(track) == (2.0, 5.0)


def test_poses_lie_between_those_of_the_file(tmp_path):
    """Of other times than the clip's frames, and unevenly spaced."""
    seconds = np.sort(np.append(np.random.default_rng(0).uniform(0, 4, 60), [0, 4]))
    rows = [[s, 0.1 * s, 0, 0, 0, sin(radians(5 * s)), 0, cos(radians(5 * s))] for s in seconds]  # ten degrees a second
    (tmp_path / "a.txt").write_text("\n".join(" ".join(map(repr, map(float, row))) for row in rows))
    track = track_of(read_poses(tmp_path / "a.txt"), VIDEO, clip_of(8), 62.0)
    times = np.arange(8) / 2
    assert track.positions_T3[:, 0] == pytest.approx(0.1 * times)
    turned = np.stack([rotation(np.array([0, radians(10 * s), 0])) for s in times])
    assert track.rotations_T33 == pytest.approx(turned, abs=1e-6)


def test_a_file_by_hand(tmp_path):
    (tmp_path / "a.txt").write_text(WALK)
    poses = read_poses(tmp_path / "a.txt")
    assert poses.rotations_P33[2] @ [0, 0, 1] == pytest.approx([1, 0, 0])  # it looks along x
    assert shown(tmp_path, VIDEO, clip_of(4)).motion == "dolly_in"


@pytest.mark.parametrize(
    ("moved", "motion"),
    [
        ((0.4, 0, 0), "truck_right"),
        ((0, 0.4, 0), "pedestal_down"),  # y points down
        ((0, 0, 0.8), "dolly_in"),
    ],
)
def test_axes_are_those_of_opencv_camera_to_world(moved, motion, tmp_path):
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, 3] = np.outer(range(4), moved)
    np.savez(tmp_path / "a.npz", camera_to_world=poses)
    assert shown(tmp_path, VIDEO, clip_of(4)).motion == motion


@pytest.mark.parametrize(
    ("turned", "motion"), [((0.1, 0, 0), "tilt_up"), ((0, 0.1, 0), "pan_right"), ((0, 0, 0.1), "roll_cw")]
)
def test_a_positive_turn_is_up_right_and_clockwise(turned, motion, tmp_path):
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, :3] = [rotation(np.array(turned) * k) for k in range(4)]
    np.savez(tmp_path / "a.npz", camera_to_world=poses)
    assert shown(tmp_path, VIDEO, clip_of(4)).motion == motion


def test_the_scale_of_translations_is_the_depth_of_the_scene(tmp_path):
    """A truck of a tenth of the depth beside a pan of two degrees, in the unit of a monocular SLAM."""
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 0.01, 4)
    poses[:, :3, :3] = [rotation(np.array([0, radians(2) * k / 3, 0])) for k in range(4)]
    np.savez(tmp_path / "a.npz", camera_to_world=poses)
    assert shown(tmp_path, VIDEO, clip_of(4), depth=0.1).motion == "truck_right"
    assert shown(tmp_path, VIDEO, clip_of(4), depth=4.0).motion == "pan_right"
    assert shown(tmp_path, VIDEO, clip_of(4), depth=4.0, still=0.05).motion == "static"
    np.savez(tmp_path / "a.npz", camera_to_world=poses, depth=0.1)  # this clip's own
    assert shown(tmp_path, VIDEO, clip_of(4), depth=4.0).motion == "truck_right"
    np.savez(tmp_path / "a.npz", camera_to_world=poses, depth=0.4)
    assert shown(tmp_path, VIDEO, clip_of(4)) == Seen(str(tmp_path / "a.npz"))  # both at once


TUM_FAULTS = [
    ("0.0 1 2 3 0 0 0", r"a\.txt:1: 7 columns; TUM's form has eight: timestamp tx"),
    ("# c\n\n0.0,1,2,3,0,0,0,1", r"a\.txt:3: 1 columns"),
    ("0.0 1 2 3 0 0 zero 1", r"a\.txt:1: not numbers: '0.0 1 2 3 0 0 zero 1'"),
    ("0.0 1 nan 3 0 0 0 1", r"a\.txt:1: nan is not a finite number"),
    ("0.0 0 0 0 0 0 0 1\n0.5 0 0 0 0 0 0 0.8", r"a\.txt:2: .* is not a rotation: its length is 0\.8"),
    ("0.5 0 0 0 0 0 0 1\n0.5 0 0 0 0 0 0 1", r"a\.txt:2: its timestamp 0.5 is not after"),
    ("0.5 0 0 0 0 0 0 1", r"a\.txt: holds 1 pose\(s\)"),
    ("# nothing", r"a\.txt: holds 0 pose\(s\)"),
    ("\n".join(f"{n} 0 0 0 0 0 0 1" for n in range(30)), r"a\.txt: all its timestamps are whole numbers"),
    (b"\xff\xfe\x00\x01", r"a\.txt:1: 1 columns"),
]


@pytest.mark.parametrize(("content", "message"), TUM_FAULTS)
def test_a_wrong_tum_file_names_its_line(content, message, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PoseError, match=message):
        read_poses(path)


def changed(index, value) -> np.ndarray:
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[index] = value
    return poses


NPZ_FAULTS = [
    ({"poses": np.eye(4)[None]}, "unknown keys poses; it takes camera_to_world, fps"),
    ({"fps": 2.0}, "camera_to_world: no such key"),
    ({"camera_to_world": np.eye(4)}, r"camera_to_world: of shape \[4, 4\]"),
    ({"camera_to_world": np.zeros((5, 3, 4))}, r"camera_to_world: of shape \[5, 3, 4\]"),
    ({"camera_to_world": changed((2, 0, 3), np.nan)}, r"camera_to_world\[2\] holds a number that is not finite"),
    ({"camera_to_world": changed((1, 0, 0), 1.2)}, r"camera_to_world\[1\] is not a rotation"),
    ({"camera_to_world": changed((3, 2, 2), -1.0)}, r"camera_to_world\[3\] is not a rotation"),  # a mirror
    ({"camera_to_world": changed((0, 3, 3), 2.0)}, r"camera_to_world\[0\] does not end in the row 0 0 0 1"),
    ({"camera_to_world": np.eye(4)[None]}, r"holds 1 pose\(s\)"),
    ({"camera_to_world": np.array([["a"]])}, "not an .npz of numbers"),
    ({"camera_to_world": np.array([{}])}, "not an .npz of numbers"),  # a pickle
    ({"camera_to_world": changed(0, np.eye(4)), "fps": 0.0}, "fps: needs one number above 0"),
    ({"camera_to_world": changed(0, np.eye(4)), "focal": 50.0}, "focal and width go together"),
    ({"camera_to_world": changed(0, np.eye(4)), "focal": np.ones(3), "width": 64}, ".* for each of the 4 poses"),
    ({"camera_to_world": changed(0, np.eye(4)), "focal": np.array(-1), "width": 64}, "focal: needs one number above 0"),
]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(10000000000, 4, 4)", "not an .npz of numbers"),  # whatever follows
        ("(3, 4, 4", "not an .npz of numbers"),
        ("(2200000, 4, 4)", "holds more than 256 MiB once it is unpacked"),  # zeros: a quarter of a megabyte
    ],
)
def test_an_npz_file_takes_no_more_memory_than_poses_need(shape, message, tmp_path):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with ZipFile(tmp_path / "a.npz", "w", ZIP_DEFLATED) as packed, packed.open("camera_to_world.npy", "w") as out:
        out.write(content)
        for _ in range(269 if "22" in shape else 0):
            out.write(bytes(1 << 20))
    with pytest.raises(PoseError, match=message):
        read_poses(tmp_path / "a.npz")


@pytest.mark.parametrize(("arrays", "message"), NPZ_FAULTS)
def test_a_wrong_npz_file_names_its_key_and_pose(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(PoseError, match=r"a\.npz: " + message):
        read_poses(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(PoseError, match=r"a\.npz: "):
        read_poses(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.eye(4))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(PoseError, match=r"a\.npz: not an \.npz"):
        read_poses(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("cut", "clip", "message"),
    [
        (Cut("a.mp4", 20.0, 22.0), clip_of(4), r"a\.txt: has 0 pose\(s\) between 20 s and 22 s.* covers 0 s to 3.5 s"),
        (Cut("a.mp4", 3.4, 5.4), clip_of(4), r"has 1 pose\(s\) between 3.4 s and 5.4 s"),
        (Cut("a.mp4", 2.0, 6.0), clip_of(8), r"has no pose within 0.5 s of the frame at 4.5 s"),
        (VIDEO, clip_of(12), r"has no pose within 0.5 s of the frame at 4.5 s"),
        (VIDEO, clip_of(4), r"its poses go on to 3.5 s, but the video ends at 2 s"),
    ],
)
def test_poses_of_other_seconds_are_refused(cut, clip, message, tmp_path):
    write_tum(tmp_path / "a.txt", draw_track("pan_left", np.random.default_rng(0), frames=8))
    with pytest.raises(FieldError, match=message):
        with_motion(sample(), shown(tmp_path, cut, clip))


def test_without_fps_a_part_is_unknown(tmp_path):
    write_npz(tmp_path / "a.npz", draw_track("pan_left", np.random.default_rng(0), frames=8))
    assert "without fps" in shown(tmp_path, Cut("a.mp4", 1.0, 3.0), clip_of(4)).fault


def sample(**extras) -> Sample:
    fields = {"question": "Does it pan?", "options": ["No", "Yes"], "answer": "A", "task": "binary", "source": "mine"}
    return Sample(id="1", video="a.mp4", split="rl", extras=extras, **fields)


def test_each_video_has_one_file_of_its_name(tmp_path):
    for name in ("day/a.txt", "day/b.tum", "b.npz", "c.npz", "c.txt", "d.json", "e.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write = write_npz if name.endswith("npz") else write_tum
        write(tmp_path / name, draw_track("pan_left", np.random.default_rng(0), frames=6))
    (tmp_path / "f").mkdir()
    (tmp_path / "b.mp4").touch()  # the folder of the videos may be that of the poses
    videos = [f"{name}.mp4" for name in ("day/a", "day/b", "a", "b", "c", "d", "e", "f")]
    assert {video: len(files) for video, files in pose_files(tmp_path, videos).items()} == {
        "day/a.mp4": 1, "day/b.mp4": 1, "b.mp4": 1, "c.mp4": 2, "d.mp4": 1, "e.mp4": 1,
    }  # fmt: skip
    clips = {(Cut(video), BUDGET): clip_of(6) for video in [*videos, "e.mov"]}
    seen = motions_of(clips, PoseFolder(tmp_path, 4.0, 62.0, 0.015))
    assert {cut.video: one.motion for (cut, _), one in seen.items() if not one.fault} == dict.fromkeys(
        ["day/a.mp4", "day/b.mp4", "b.mp4"], "pan_left"
    )
    faults = {cut.video: one.fault for (cut, _), one in seen.items() if one.fault}
    assert "c.mp4 has 2 pose files: " in faults["c.mp4"] and "c.npz, " in faults["c.mp4"]
    assert "d.json: unknown suffix; poses are read from .txt, .tum, .npz" in faults["d.mp4"]
    assert "2 videos have its name" in faults["e.mp4"] and "2 videos have its name" in faults["e.mov"]
    assert summary_of(counts_of(seen, len(clips))) == (
        "9 clips = 7 with a pose file + 2 without; the 7 = 3 of a single motion + 0 of several + 4 that cannot be used"
    )
    with pytest.raises(PoseError, match=r"no video has a pose file there; .*z\.txt, \.tum or \.npz"):
        motions_of({(Cut("z.mp4"), BUDGET): clip_of(6)}, PoseFolder(tmp_path, 4.0, 62.0, 0.015))


def test_a_motion_that_is_there_is_not_replaced(tmp_path):
    write_tum(tmp_path / "a.txt", draw_track("pan_left", np.random.default_rng(0), frames=6))
    seen = shown(tmp_path, VIDEO, clip_of(6))
    assert with_motion(sample(scene="1"), seen).extras == {"scene": "1", "motion": "pan_left"}
    assert with_motion(sample(motion="pan_left"), seen) == sample(motion="pan_left")
    with pytest.raises(FieldError, match=r"extras\.motion: is zoom_in, but .*a\.txt shows pan_left"):
        with_motion(sample(motion="zoom_in"), seen)
    assert with_motion(sample(motion="zoom_in"), replace(seen, motion=None)) == sample(motion="zoom_in")
    assert with_motion(sample(), None) == sample()


def test_a_sample_cannot_know_a_motion_that_nobody_knows():
    line = sample(motion="pan_left").model_dump_json().replace("pan_left", "Pan Left")
    with pytest.raises(FieldError, match="extras: motion 'Pan Left' is not one of static, "):
        parse_sample(line.encode())

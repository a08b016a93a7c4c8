import numpy as np
import pytest

from data_tools.rendered.scene import JITTER, draw_scene, draw_track, project, read_clip, render_frames, write_clip
from data_tools.tracks import AXES, Track, motion_of_track, rotation
from rewards.motions import PRIMITIVES

NEAR, FAR = np.array([[0.2, 0.1, 2.5]]), np.array([[0.8, 0.4, 10.0]])


def shift(motion: str, point: np.ndarray) -> np.ndarray:
    """How far [2] a point moves on the picture from the first to the last frame."""
    track = draw_track(motion, np.random.default_rng(3), jitter=0)
    seen_T2 = project(track, point)[:, 0]
    return seen_T2[-1] - seen_T2[0]


@pytest.mark.parametrize("motion", PRIMITIVES)
def test_the_label_of_a_track_is_its_motion(motion):
    for seed in range(100):
        frames = 2 + seed % 7
        assert motion_of_track(draw_track(motion, np.random.default_rng(seed), frames)) == motion


def test_every_primitive_but_static_is_an_axis_of_the_camera():
    assert sorted(sum(AXES, ())) == sorted(set(PRIMITIVES) - {"static"})


@pytest.mark.parametrize(
    ("rotating", "translating", "axis", "sign"),
    [
        ("pan_left", "truck_left", 0, 1),
        ("pan_right", "truck_right", 0, -1),
        ("tilt_up", "pedestal_up", 1, 1),
        ("tilt_down", "pedestal_down", 1, -1),
    ],
)
def test_near_and_far_slide_alike_under_a_rotation_only(rotating, translating, axis, sign):
    near, far = shift(rotating, NEAR)[axis], shift(rotating, FAR)[axis]
    assert sign * near > 2 and near == pytest.approx(far, rel=0.15)
    near, far = shift(translating, NEAR)[axis], shift(translating, FAR)[axis]
    assert sign * far > 0.5 and near > 3 * far if sign > 0 else near < 3 * far


def test_near_grows_more_than_far_under_a_dolly_only():
    center = 42

    def growth(motion: str, point: np.ndarray) -> float:
        track = draw_track(motion, np.random.default_rng(3), jitter=0)
        low, high = (project(track, point + [0, step, 0])[:, 0, 1] for step in (-0.2, 0.2))
        return (high[-1] - low[-1]) / (high[0] - low[0])

    assert center == draw_track("zoom_in", np.random.default_rng(3)).size / 2
    assert growth("zoom_in", NEAR) == pytest.approx(growth("zoom_in", FAR)) and growth("zoom_in", FAR) > 1.1
    assert growth("dolly_in", NEAR) > growth("dolly_in", FAR) > 1
    assert growth("zoom_out", FAR) < 0.9 and growth("dolly_out", NEAR) < growth("dolly_out", FAR) < 1


def test_a_clockwise_roll_turns_the_picture_counterclockwise():
    track = draw_track("roll_cw", np.random.default_rng(3), jitter=0)
    ahead = track.positions_T3[0] + track.rotations_T33[0] @ [1.0, 0.0, 4.0]  # a point to the right of the middle
    seen_T2 = project(track, ahead[None])[:, 0]
    assert seen_T2[-1, 1] < seen_T2[0, 1]  # goes up


def test_rendered_pixels_are_where_the_camera_projects_them():
    """The corner of a box stands where its colours meet: compare two renderings, one with the box painted white."""
    rng = np.random.default_rng(5)
    scene, track = draw_scene(rng), draw_track("truck_left", rng)
    white = scene.colors_B23.copy()
    white[1] = 50.0
    other = type(scene)(**{**scene.__dict__, "colors_B23": white})
    changed_THW = (render_frames(scene, track) != render_frames(other, track)).any(-1)
    low, high = scene.low_B3[1], scene.high_B3[1]
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    for changed, seen in zip(changed_THW, project(track, corners)):
        rows, columns = np.nonzero(changed)
        assert rows.size
        assert columns.min() >= seen[:, 0].min() - 1 and columns.max() <= seen[:, 0].max() + 1
        assert rows.min() >= seen[:, 1].min() - 1 and rows.max() <= seen[:, 1].max() + 1


def test_rotation_follows_the_axes():
    assert rotation(np.array([0, np.pi / 2, 0])) @ [0, 0, 1] == pytest.approx([1, 0, 0])  # right
    assert rotation(np.array([np.pi / 2, 0, 0])) @ [0, 0, 1] == pytest.approx([0, -1, 0])  # up
    assert rotation(np.zeros(3)) == pytest.approx(np.eye(3))


def test_shaking_alone_is_static():
    for seed in range(200):
        assert motion_of_track(draw_track("static", np.random.default_rng(seed), jitter=JITTER)) == "static"


def test_a_clip_and_its_track_come_back(tmp_path):
    rng = np.random.default_rng(0)
    track = draw_track("zoom_in", rng)
    frames = render_frames(draw_scene(rng), track)
    assert frames.shape == (4, 84, 84, 3) and frames.std() > 20
    for name in ("one.mp4", "two.mp4"):
        write_clip(tmp_path / name, frames, track.fps)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert np.abs(read_clip(tmp_path / "one.mp4").astype(int) - frames).mean() < 5
    track.save(tmp_path / "one.json")
    again = Track.load(tmp_path / "one.json")
    assert (again.rotations_T33 == track.rotations_T33).all() and again.fps == 2.0
    assert motion_of_track(again) == "zoom_in"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "one.mp4", "two.mp4"]

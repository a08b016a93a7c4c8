from dataclasses import replace

import numpy as np
import pytest

from data_tools.rendered.scene import draw_track
from data_tools.tracks import Track, motion_of_track, rotation, rotation_vectors, single_motion, span_of_track
from rewards.motions import PRIMITIVES, opposite

LEVEL = np.eye(3)


def filmed(steps_T7: np.ndarray) -> Track:
    """A camera that takes `steps_T7` along its own axes: radians, metres and log focal length."""
    positions, rotations, focal = [np.zeros(3)], [LEVEL], [1.0]
    for step in steps_T7:
        positions.append(positions[-1] + rotations[-1] @ step[3:6])
        rotations.append(rotations[-1] @ rotation(step[:3]))
        focal.append(focal[-1] * np.exp(step[6]))
    return Track(np.stack(positions), np.stack(rotations), np.array(focal), size=1, fps=2.0)


def steps(axis: int, each: list[float]) -> np.ndarray:
    moves = np.zeros((len(each), 7))
    moves[:, axis] = each
    return moves


def test_a_whole_turn_is_a_pan():
    assert motion_of_track(filmed(steps(1, [0.6] * 12))) == "pan_right"  # 7.2 rad
    assert motion_of_track(filmed(steps(2, [-0.4] * 16))) == "roll_ccw"


def test_who_walks_on_after_a_turn_dollies_in():
    track = filmed(np.vstack([steps(1, [np.pi / 2]), steps(5, [2.0] * 20)]))
    assert motion_of_track(track) == "dolly_in"
    assert track.positions_T3[-1] == pytest.approx([40, 0, 0])


@pytest.mark.parametrize("motion", PRIMITIVES)
def test_a_single_motion_is_the_motion(motion):
    for seed in range(40):
        for spans in ({}, {"span": (seed % 3, 3 + seed % 2)}):
            track = draw_track(motion, np.random.default_rng(seed), frames=8, **spans)
            assert single_motion(track) == motion_of_track(track)


def test_several_motions_at_once_and_one_back_and_forth_are_no_single_motion():
    pan, truck = steps(1, [0.1] * 6), steps(3, [0.4] * 6)
    assert single_motion(filmed(pan)) == "pan_right" and single_motion(filmed(truck)) == "truck_right"
    assert single_motion(filmed(pan + truck)) is None
    assert single_motion(filmed(pan + 0.3 * truck)) == "pan_right"
    back = steps(1, [0.1] * 6 + [-0.1] * 6)
    assert motion_of_track(filmed(back)) == "static" and single_motion(filmed(back)) is None
    assert single_motion(filmed(steps(1, [0.1] * 6 + [-0.1] * 4))) is None
    assert single_motion(filmed(steps(1, [0.1] * 9 + [-0.1] * 2))) == "pan_right"


def test_translations_are_weighed_by_the_depth_of_the_scene():
    both = filmed(steps(1, [0.1] * 6) + steps(3, [0.5] * 6))
    assert motion_of_track(both, depth=10) == "pan_right" and motion_of_track(both, depth=2) == "truck_right"
    scaled = replace(both, positions_T3=both.positions_T3 * 100)
    assert motion_of_track(scaled, depth=1000) == "pan_right"


def test_a_track_backwards_shows_the_opposite():
    for motion in PRIMITIVES:
        track = draw_track(motion, np.random.default_rng(1))
        turned = Track(
            track.positions_T3[::-1], track.rotations_T33[::-1], track.focal_T[::-1], size=track.size, fps=track.fps
        )
        assert motion_of_track(turned) == (opposite(motion) or motion)


def test_a_slow_step_counts_however_far_the_camera_has_turned():
    assert span_of_track(filmed(steps(1, [0.02] * 100))) == (0.0, 50.5)


def test_rotation_vectors_undo_rotation():
    vectors = np.random.default_rng(0).normal(size=(50, 3))
    assert rotation_vectors(np.stack([rotation(vector) for vector in vectors])) == pytest.approx(vectors, abs=1e-9)
    assert (rotation_vectors(LEVEL[None]) == 0).all()

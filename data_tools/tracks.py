"""The camera's way through a clip, and the motion that it shows: the label of rendered clips, and of clips with poses.

Axes, of the world and of the camera, are OpenCV's: x right, y down, z forward. A rotation vector therefore turns the
camera up (x), right (y) and clockwise (z) where it is positive.

How far a camera moves is given by what one sees, its *apparent motion*: the share of the frame's width that a point
moves (a point at a stated depth for translations, a point at the frame's edge for roll, zoom and dolly).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.files import write_text

# The degrees of freedom of a camera: its primitive in the negative and in the positive direction.
AXES: tuple[tuple[str, str], ...] = (
    ("tilt_down", "tilt_up"),  # rotation about x
    ("pan_left", "pan_right"),  # about y
    ("roll_ccw", "roll_cw"),  # about z
    ("truck_left", "truck_right"),  # translation along x
    ("pedestal_up", "pedestal_down"),  # along y
    ("dolly_out", "dolly_in"),  # along z
    ("zoom_out", "zoom_in"),  # logarithm of the focal length
)
REFERENCE_DEPTH = 4.0  # metres; objects are nearer, walls farther
STILL = 0.015  # a camera that moves less than this over a whole clip is static


@dataclass(frozen=True)
class Track:
    """A camera on its way through a clip of T frames.

    Attributes:
        positions_T3: metres, in the world.
        rotations_T33: camera to world.
        focal_T: focal length in pixels.
        size: width and height of the frame in pixels.
        fps: frames per second.
        target_23: low and high corner in metres of the box to be tracked, where there is one.
    """

    positions_T3: np.ndarray
    rotations_T33: np.ndarray
    focal_T: np.ndarray
    size: int
    fps: float
    target_23: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write the track as JSON."""
        record = {
            "size": self.size,
            "fps": self.fps,
            "position": self.positions_T3.tolist(),
            "rotation": self.rotations_T33.tolist(),
            "focal_length": self.focal_T.tolist(),
        }
        if self.target_23 is not None:
            record["target"] = self.target_23.tolist()
        write_text(path, json.dumps(record))

    @classmethod
    def load(cls, path: Path) -> "Track":
        record = json.loads(path.read_text())
        return cls(
            positions_T3=np.array(record["position"]),
            rotations_T33=np.array(record["rotation"]),
            focal_T=np.array(record["focal_length"]),
            size=record["size"],
            fps=record["fps"],
            target_23=np.array(record["target"]) if "target" in record else None,
        )


def rotation(vector_3: np.ndarray) -> np.ndarray:
    """Rotation matrix [3, 3] of a rotation vector in radians (Rodrigues)."""
    angle = np.linalg.norm(vector_3)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector_3 / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def rotation_vectors(turns_N33: np.ndarray) -> np.ndarray:
    """Rotation vectors [N, 3] in radians of rotation matrices; by less than a half turn each."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_matrix(turns_N33).as_rotvec())


def units(focal: float, size: float, depth: float = REFERENCE_DEPTH) -> np.ndarray:
    """Radians, metres and log focal length, per axis, that make a point move one frame width."""
    width = size / focal
    return np.array([width, width, 2.0, width * depth, width * depth, 2 * depth, 2.0])


def motion_of_track(track: Track, depth: float = REFERENCE_DEPTH, still: float = STILL) -> str:
    """The primitive that a track shows: its strongest axis, or `static` below `still`.

    Each axis is measured in apparent motion, by the straight line that fits it best.

    Args:
        depth: of the scene, in the unit of the positions: a translation by a share of it weighs like a rotation.
    """
    moves_T7 = apparent_moves(track, depth)
    time_T = np.arange(len(moves_T7)) - (len(moves_T7) - 1) / 2
    moved_7 = time_T @ moves_T7 / (time_T @ time_T) * (len(time_T) - 1)
    axis = int(np.argmax(np.abs(moved_7)))
    return AXES[axis][int(moved_7[axis] > 0)] if abs(moved_7[axis]) >= still else "static"


def single_motion(track: Track, depth: float = REFERENCE_DEPTH, still: float = STILL) -> str | None:
    """`motion_of_track`, or None where the track shows no single motion: several at once, or one back and forth.

    Nothing else may move more than half as far as the camera gets along its strongest axis, nor may it go twice as
    far as it gets. Of a static one no axis may reach twice `still`.
    """
    motion, moves_T7 = motion_of_track(track, depth, still), apparent_moves(track, depth)
    reach_7 = np.ptp(moves_T7, axis=0)
    if motion == "static":
        return motion if reach_7.max() < 2 * still else None
    axis = next(number for number, ends in enumerate(AXES) if motion in ends)
    got = moves_T7[-1, axis] * (2 * AXES[axis].index(motion) - 1)
    others = np.delete(reach_7, axis).max()
    return motion if reach_7[axis] <= 2 * got and others <= got / 2 else None


def span_of_track(track: Track) -> tuple[float, float] | None:
    """Seconds at which the camera starts and stops to move, None for a static one.

    A frame is shown until the next one, so a camera that still moves at the last frame moves to the clip's end.
    """
    steps_T = np.abs(np.diff(apparent_moves(track), axis=0)).max(1)
    moving = np.flatnonzero(steps_T >= STILL)
    if not len(moving):
        return None
    stop = moving[-1] + 1 + (moving[-1] + 1 == len(steps_T))
    return float(moving[0] / track.fps), float(stop / track.fps)


def apparent_moves(track: Track, depth: float = REFERENCE_DEPTH) -> np.ndarray:
    """How far [T, 7] the camera has come by each frame, per axis, in apparent motion.

    Each step counts along the axes of the camera that takes it: one that walks on after a turn dollies in.
    """
    turns_T33, before_T33 = track.rotations_T33, track.rotations_T33[:-1]
    turned_T3 = rotation_vectors(before_T33.transpose(0, 2, 1) @ turns_T33[1:])
    shifted_T3 = np.einsum("tj,tji->ti", np.diff(track.positions_T3, axis=0), before_T33)
    zoomed_T1 = np.diff(np.log(track.focal_T))[:, None]
    moves_T7 = np.cumsum(np.hstack([turned_T3, shifted_T3, zoomed_T1]), axis=0)
    whole: np.ndarray = np.vstack([np.zeros((1, len(AXES))), moves_T7]) / units(track.focal_T[0], track.size, depth)
    return whole

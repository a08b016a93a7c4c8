"""Pose files of rendered tracks, in either form."""

from pathlib import Path

import numpy as np

from data_tools.tracks import Track


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """x y z w of a rotation of less than a third of a turn."""
    w = np.sqrt(1 + np.trace(matrix)) / 2
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    return np.append(skew / (4 * w), w)


def write_tum(path: Path, track: Track, start: float = 0.0) -> None:
    rows = [
        [start + number / track.fps, *position, *quaternion(matrix)]
        for number, (position, matrix) in enumerate(zip(track.positions_T3, track.rotations_T33))
    ]
    path.write_text("\n".join(" ".join(f"{value:.6f}" for value in row) for row in rows))


def matrices(track: Track) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(track.focal_T), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = track.rotations_T33, track.positions_T3
    return poses


def write_npz(path: Path, track: Track, **others: float) -> None:
    np.savez(path, camera_to_world=matrices(track), focal=track.focal_T, width=track.size, **others)

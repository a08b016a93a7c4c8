"""Pose files, in which a user gives the camera's track: one per video, found and read.

A pose file lies under the folder of poses as its video lies under the media root, and has its name but for the suffix.
Poses are camera to world in OpenCV's axes: x right, y down, z forward.

.txt, .tum   TUM's form, a pose a line: `timestamp tx ty tz qx qy qz qw`, the timestamp in seconds from the beginning of
             the video; # begins a comment. Whole numbers alone are refused: they number frames. Zooms cannot be seen.
.npz         `camera_to_world` [P, 4, 4], and where known `fps` (of the poses, the first at 0 s; without it they are
             spread evenly over the video), `focal` ([P] or one, in pixels) with `width` (of the frame, in pixels), and
             `depth` (of the scene, in the unit of the translations)
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np

from rewards.errors import UserError

TUM = "timestamp tx ty tz qx qy qz qw"
KEYS = ("camera_to_world", "fps", "focal", "width", "depth")
LARGEST = 1 << 28  # bytes that an .npz may hold unpacked: two million poses


class PoseError(UserError):
    """A pose file that says nothing of a clip; the message names it, and the line or pose."""


@dataclass(frozen=True)
class Poses:
    """What a pose file holds of P poses.

    Attributes:
        positions_P3, rotations_P33: camera to world.
        seconds_P: when, from the beginning of the video; None: evenly over it.
        focal_P: focal length in frame widths; None: unknown, and so constant.
        depth: of the scene, in the unit of the positions; None: unknown.
    """

    positions_P3: np.ndarray
    rotations_P33: np.ndarray
    seconds_P: np.ndarray | None = None
    focal_P: np.ndarray | None = None
    depth: float | None = None


def pose_files(root: Path, videos: Iterable[str]) -> dict[str, list[Path]]:
    """The videos that have a pose file, with it: one, where all is well."""
    listed: dict[Path, dict[str, list[Path]]] = {}
    found = {}
    for video in videos:
        place = root / video
        if place.parent not in listed:
            by_stem = listed[place.parent] = defaultdict(list)
            for file in _files_in(place.parent):
                by_stem[file.stem].append(file)
        if files := [file for file in listed[place.parent].get(place.stem, []) if file.name != place.name]:
            found[video] = sorted(files)
    return found


def _files_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_file()]


def read_poses(path: Path) -> Poses:
    """The poses of a file.

    Raises:
        PoseError: naming the file, and the line or the pose.
    """
    if path.suffix not in _READERS:
        raise PoseError(f"{path}: unknown suffix; poses are read from {', '.join(_READERS)}")
    try:
        poses = _READERS[path.suffix](path)
    except OSError as error:
        raise PoseError(f"{path}: {error.strerror or error}") from error
    if len(poses.positions_P3) < 2:
        raise PoseError(f"{path}: holds {len(poses.positions_P3)} pose(s); a motion needs two or more")
    return poses


def _read_tum(path: Path) -> Poses:
    from scipy.spatial.transform import Rotation

    rows: list[list[float]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if words := line.partition("#")[0].split():
                rows.append(_pose_of(words, f"{path}:{number}"))
                if len(rows) > 1 and rows[-1][0] <= rows[-2][0]:
                    raise PoseError(f"{path}:{number}: its timestamp {words[0]} is not after the one before")
    table_P8 = np.array(rows).reshape(-1, 8)
    seconds_P = table_P8[:, 0]
    if len(rows) > 1 and (seconds_P == seconds_P.round()).all():
        raise PoseError(
            f"{path}: all its timestamps are whole numbers, as those of frames are; give seconds from the beginning of "
            "the video, or an .npz with fps"
        )
    return Poses(table_P8[:, 1:4], Rotation.from_quat(table_P8[:, 4:]).as_matrix(), seconds_P)


def _pose_of(words: list[str], where: str) -> list[float]:
    """The eight numbers of a line."""
    if len(words) != 8:
        raise PoseError(f"{where}: {len(words)} columns; TUM's form has eight: {TUM}")
    try:
        pose = [float(word) for word in words]
    except ValueError as error:
        raise PoseError(f"{where}: not numbers: {' '.join(words)[:80]!r}") from error
    if not all(map(isfinite, pose)):
        raise PoseError(f"{where}: {words[list(map(isfinite, pose)).index(False)]} is not a finite number")
    length = float(np.linalg.norm(pose[4:]))
    if abs(length - 1) > 0.01:
        raise PoseError(f"{where}: qx qy qz qw is not a rotation: its length is {length:.3g}, not 1")
    return pose


def _read_npz(path: Path) -> Poses:
    try:
        with ZipFile(path) as packed:
            if sum(part.file_size for part in packed.infolist()) > LARGEST:
                raise PoseError(f"{path}: holds more than {LARGEST >> 20} MiB once it is unpacked")
        with np.load(path, allow_pickle=False) as file:
            if unknown := sorted(set(file.files) - set(KEYS)):
                raise PoseError(f"{path}: unknown keys {', '.join(unknown)}; it takes {', '.join(KEYS)}")
            held = {key: np.asarray(file[key], dtype=float) for key in file.files}
    except PoseError:
        raise
    except (BadZipFile, EOFError, MemoryError, TokenError, TypeError, ValueError, ZlibError) as error:
        raise PoseError(f"{path}: not an .npz of numbers: {error}") from error
    poses_P44 = held.get("camera_to_world")
    if poses_P44 is None or poses_P44.shape[1:] != (4, 4):
        shape = "no such key" if poses_P44 is None else f"of shape {list(poses_P44.shape)}"
        raise PoseError(f"{path}: camera_to_world: {shape}; needs [poses, 4, 4]")
    _refuse_other_than_poses(poses_P44, path)
    if ("focal" in held) != ("width" in held):
        raise PoseError(f"{path}: focal and width go together: both in pixels")
    fps, width, depth = (_positive(held, key, path) for key in ("fps", "width", "depth"))
    return Poses(
        poses_P44[:, :3, 3],
        poses_P44[:, :3, :3],
        np.arange(len(poses_P44)) / fps if fps else None,
        _focal(held["focal"], len(poses_P44), path) / width if width else None,
        depth,
    )


def _refuse_other_than_poses(poses_P44: np.ndarray, path: Path) -> None:
    finite_P = np.isfinite(poses_P44).all((1, 2))
    whole_P44 = np.where(finite_P[:, None, None], poses_P44, np.eye(4))
    turns_P33 = whole_P44[:, :3, :3]
    skewed_P = np.abs(turns_P33.transpose(0, 2, 1) @ turns_P33 - np.eye(3)).max((1, 2)) > 1e-3
    for wrong_P, reason in (
        (~finite_P, "holds a number that is not finite"),
        (np.abs(whole_P44[:, 3] - [0, 0, 0, 1]).max(1) > 1e-3, "does not end in the row 0 0 0 1"),
        (skewed_P | (np.linalg.det(turns_P33) < 0), "is not a rotation and a translation"),
    ):
        if wrong_P.any():
            raise PoseError(f"{path}: camera_to_world[{wrong_P.argmax()}] {reason}")


def _positive(held: Mapping[str, np.ndarray], key: str, path: Path) -> float | None:
    value = held.get(key)
    if value is not None and (value.size != 1 or not 0 < value.item() < np.inf):
        raise PoseError(f"{path}: {key}: needs one number above 0")
    return None if value is None else float(value.item())


def _focal(value: np.ndarray, poses: int, path: Path) -> np.ndarray:
    if value.shape not in ((), (1,), (poses,)) or not ((value > 0) & np.isfinite(value)).all():
        raise PoseError(f"{path}: focal: needs one number above 0, or one for each of the {poses} poses")
    return np.broadcast_to(value, (poses,))


_READERS: dict[str, Callable[[Path], Poses]] = {".txt": _read_tum, ".tum": _read_tum, ".npz": _read_npz}

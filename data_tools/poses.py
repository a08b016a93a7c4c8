"""Clips whose camera's track the user knows: what each shows, from the pose file of its video."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import radians, tan
from pathlib import Path

import numpy as np

from data_tools.media.budget import Budget
from data_tools.media.normalise import Clip
from data_tools.media.store import Medium, Wish
from data_tools.pose_files import PoseError, Poses, pose_files, read_poses
from data_tools.quarantine import Quarantine, Rejected
from data_tools.sample import Cut, FieldError, Sample
from data_tools.tracks import Track, rotation, rotation_vectors, single_motion

GAP = 0.5  # seconds; a frame farther from any pose has none


@dataclass(frozen=True)
class PoseFolder:
    """Where the pose files lie, and what holds where they do not say it.

    Attributes:
        depth: of the scene, in the unit of the translations.
        field_of_view: from the left to the right edge of the frame, in degrees.
        still: a camera whose apparent motion over a whole clip is less than this is static (`data_tools.tracks`).
    """

    root: Path
    depth: float
    field_of_view: float
    still: float


@dataclass(frozen=True)
class Seen:
    """What a clip's pose file shows: its single motion, None where there are several; or why it cannot be used."""

    file: str
    motion: str | None = None
    fault: str | None = None


def track_of(poses: Poses, cut: Cut, clip: Clip, field_of_view: float) -> Track:
    """The camera's way through the frames of a clip, between the poses before and after each.

    Raises:
        PoseError: the poses are not those of the clip; the message does not name their file.
    """
    seconds_P, start, end = poses.seconds_P, cut.start or 0.0, (cut.start or 0.0) + clip.duration
    if seconds_P is None:
        if cut.is_part:
            raise PoseError("without fps nobody knows which poses are of a part of the video")
        seconds_P = np.arange(len(poses.positions_P3)) * clip.duration / len(poses.positions_P3)
    if cut.end is None and seconds_P[-1] > end + GAP:
        raise PoseError(f"its poses go on to {seconds_P[-1]:g} s, but the video ends at {end:g} s")
    times_T = np.minimum(start + np.arange(clip.frames) * clip.step_ms / 1000, end)
    _require_near(seconds_P, times_T, start, end)
    before_T = np.clip(np.searchsorted(seconds_P, times_T, side="right") - 1, 0, len(seconds_P) - 2)
    passed_T = np.clip((times_T - seconds_P[before_T]) / np.diff(seconds_P)[before_T], 0, 1)

    def between(values: np.ndarray) -> np.ndarray:
        share = passed_T.reshape(-1, *[1] * (values.ndim - 1))
        result: np.ndarray = (1 - share) * values[before_T] + share * values[before_T + 1]
        return result

    turns_P33 = poses.rotations_P33
    turned_T3 = rotation_vectors(turns_P33[before_T].transpose(0, 2, 1) @ turns_P33[before_T + 1])
    whole = 0.5 / tan(radians(field_of_view) / 2)
    return Track(
        positions_T3=between(poses.positions_P3),
        rotations_T33=turns_P33[before_T] @ np.stack([rotation(s * v) for s, v in zip(passed_T, turned_T3)]),
        focal_T=np.full(clip.frames, whole) if poses.focal_P is None else np.exp(between(np.log(poses.focal_P))),
        size=1,
        fps=clip.fps,
    )


def _require_near(seconds_P: np.ndarray, times_T: np.ndarray, start: float, end: float) -> None:
    """Refuse poses that leave a frame out."""
    inside = int(((seconds_P >= start) & (seconds_P <= end)).sum())
    if inside < 2:
        raise PoseError(
            f"has {inside} pose(s) between {start:g} s and {end:g} s, where two or more are needed; it covers "
            f"{seconds_P[0]:g} s to {seconds_P[-1]:g} s"
        )
    far_T = np.abs(times_T[:, None] - seconds_P).min(1) > GAP
    if far_T.any():
        raise PoseError(f"has no pose within {GAP:g} s of the frame at {times_T[far_T.argmax()]:g} s")


def motions_of(made: Mapping[Wish, Medium], folder: PoseFolder) -> dict[Wish, Seen]:
    """What the clips show whose videos have a pose file.

    Raises:
        PoseError: none of the videos has one.
    """
    clips = {wish: clip for wish, clip in made.items() if isinstance(clip, Clip)}
    of_video: dict[str, list[Wish]] = defaultdict(list)
    for wish in clips:
        of_video[wish[0].video].append(wish)
    files = pose_files(folder.root, of_video)
    if clips and not files:
        first = folder.root / next(iter(of_video))
        raise PoseError(
            f"data.poses.folder={folder.root}: no video has a pose file there; that of the first would be "
            f"{first.with_suffix('.txt')}, .tum or .npz"
        )
    owners = Counter(file for several in files.values() for file in several)
    found: dict[Wish, Seen] = {}
    for video, several in files.items():
        file, wishes = several[0], of_video[video]
        try:
            if len(several) > 1:
                raise PoseError(f"{video} has {len(several)} pose files: {', '.join(map(str, several))}")
            if owners[file] > 1:
                raise PoseError(f"{file}: {owners[file]} videos have its name, {video} is one of them")
            poses = read_poses(file)
        except PoseError as error:
            found |= dict.fromkeys(wishes, Seen(str(file), fault=str(error)))
        else:
            found |= {wish: _seen(poses, wish[0], clips[wish], file, folder) for wish in wishes}
    return found


def _seen(poses: Poses, cut: Cut, clip: Clip, file: Path, folder: PoseFolder) -> Seen:
    try:
        track = track_of(poses, cut, clip, folder.field_of_view)
    except PoseError as error:
        return Seen(str(file), fault=f"{file}: {error}")
    return Seen(str(file), single_motion(track, poses.depth or folder.depth, folder.still))


def counts_of(seen: Mapping[Wish, Seen], clips: int) -> dict[str, int]:
    """How many clips have a pose file, and what these show."""
    unusable = sum(one.fault is not None for one in seen.values())
    single = sum(one.motion is not None for one in seen.values())
    return {
        "with_pose_file": len(seen),
        "without_pose_file": clips - len(seen),
        "single_motion": single,
        "several_motions": len(seen) - single - unusable,
        "unusable": unusable,
    }


def summary_of(counts: Mapping[str, int]) -> str:
    """The counts in words."""
    return (
        "{all} clips = {with_pose_file} with a pose file + {without_pose_file} without; the {with_pose_file} = "
        "{single_motion} of a single motion + {several_motions} of several + {unusable} that cannot be used"
    ).format(all=counts["with_pose_file"] + counts["without_pose_file"], **counts)


def with_motion(sample: Sample, seen: Seen | None) -> Sample:
    """The sample, with its clip's motion where that is known.

    Raises:
        FieldError: the pose file cannot be used, or shows another motion than the sample says.
    """
    if seen is None:
        return sample
    if seen.fault is not None:
        raise FieldError("poses", seen.fault)
    said = sample.extras.get("motion")
    if said is not None and seen.motion is not None and said != seen.motion:
        raise FieldError("extras.motion", f"is {said}, but {seen.file} shows {seen.motion}")
    return (
        sample if seen.motion is None else sample.model_copy(update={"extras": sample.extras | {"motion": seen.motion}})
    )


def with_motions(
    taken: Iterable[tuple[Path, Sample, Budget]], seen: Mapping[Wish, Seen], quarantine: Quarantine
) -> Iterator[tuple[Path, Sample, Budget]]:
    """Samples with their clips' motions, and their files and budgets as given; those with a fault are quarantined."""
    for file, sample, budget in taken:
        try:
            known = with_motion(sample, seen.get((sample.cuts[0], budget)))
        except FieldError as fault:
            quarantine.add(Rejected(str(file), sample.id, fault.field, fault.reason))
        else:
            yield file, known, budget

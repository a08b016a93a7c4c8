"""Clips of a 3-D scene, filmed by a pinhole camera whose every pose and focal length is known.

Axes and units are those of `data_tools.tracks`. The label of a clip is derived from the camera's track, not from what
was requested, so it is correct by construction. How fast a camera moves is its *apparent speed*: its apparent motion
per frame, at `REFERENCE_DEPTH`.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np

from data_tools.files import whole_path
from data_tools.tracks import AXES, Track, rotation, units

SPEEDS = (0.04, 0.065)  # apparent speed per frame
JITTER = 0.003  # largest apparent shake per frame of a hand-held camera
TRACKED_SPEEDS = (0.02, 0.04)  # where an object near the camera must stay in sight
TARGET_COLOR = (0.95, 0.05, 0.05)  # no other object is plain red


def draw_track(
    motion: str,
    rng: np.random.Generator,
    frames: int = 4,
    size: int = 84,
    fps: float = 2.0,
    jitter: float = JITTER,
    speeds: tuple[float, float] = SPEEDS,
    span: tuple[float, float] | None = None,
) -> Track:
    """A camera that does `motion` at a random speed, from a random pose, with a random lens and a shaking hand.

    Args:
        speeds: least and greatest apparent speed per frame.
        span: seconds between which it moves, and before and after which it is still; None: all the time.
    """
    first, last = (0, frames - 1) if span is None else (round(span[0] * fps), round(span[1] * fps))
    moves_T7 = np.zeros((frames, len(AXES)))
    moves_T7[:, :6] = rng.uniform(-jitter, jitter, (frames, 6))
    speed = rng.uniform(*speeds)
    for axis, ends in enumerate(AXES):
        if motion in ends:
            moved_T = np.clip(np.arange(frames), first, last) - (first + last) / 2
            moves_T7[:, axis] += (2 * ends.index(motion) - 1) * speed * moved_T
    focal = size / 2 / np.tan(np.radians(rng.uniform(55, 70)) / 2)
    start = rotation(rng.uniform(-1, 1, 3) * (0.08, 0.12, 0.04))
    position = rng.uniform(-1, 1, 3) * (0.35, 0.25, 0.2)
    moves_T7 *= units(focal, size)
    return Track(
        positions_T3=position + moves_T7[:, 3:6] @ start.T,
        rotations_T33=np.stack([start @ rotation(move[:3]) for move in moves_T7]),
        focal_T=focal * np.exp(moves_T7[:, 6]),
        size=size,
        fps=fps,
    )


def project(track: Track, points_N3: np.ndarray) -> np.ndarray:
    """Pixels [T, N, 2] (x right, y down, from the frame's corner) where each frame sees the points of the world."""
    seen_TN3 = (points_N3 - track.positions_T3[:, None]) @ track.rotations_T33
    pixels: np.ndarray = track.focal_T[:, None, None] * seen_TN3[..., :2] / seen_TN3[..., 2:] + track.size / 2
    return pixels


def boxes_of_track(track: Track) -> np.ndarray:
    """Box [T, 4] (x0, y0, x1, y1 in percent of the frame) around the target in each frame, cut at the frame's edge."""
    assert track.target_23 is not None, "the track has no target"
    corners_83 = np.array(list(product(*track.target_23.T)))
    seen_T82 = project(track, corners_83)
    boxes_T4 = np.hstack([seen_T82.min(1), seen_T82.max(1)]) / track.size * 100
    return boxes_T4.clip(0, 100)


@dataclass(frozen=True)
class Scene:
    """A room and the boxes in it, each with a solid texture: waves through space between two colours.

    Attributes:
        low_B3, high_B3: corners in metres; the room, seen from inside, comes first.
        waves_BK3, phases_BK, weights_BK: wave vectors (radians per metre), phases, shares.
        colors_B23: the two colours, RGB from 0 to 1.
        light_3: how bright a face is that looks along x, y, z.
    """

    low_B3: np.ndarray
    high_B3: np.ndarray
    waves_BK3: np.ndarray
    phases_BK: np.ndarray
    weights_BK: np.ndarray
    colors_B23: np.ndarray
    light_3: np.ndarray


def draw_scene(rng: np.random.Generator, waves: int = 4) -> Scene:
    """A random room of about 4 x 3 x 15 metres with three to five boxes in front of the camera."""
    boxes = int(rng.integers(3, 6))
    centers = np.column_stack([rng.uniform(-1.5, 1.5, boxes), rng.uniform(-1, 1, boxes), rng.uniform(2.1, 3.7, boxes)])
    halves = rng.uniform(0.2, 1, (boxes, 3)) * (0.6, 0.8, 0.5)
    low = np.vstack([[-rng.uniform(1.8, 2.6), -rng.uniform(1.3, 1.8), -5], centers - halves])
    high = np.vstack([[rng.uniform(1.8, 2.6), rng.uniform(1.2, 1.5), rng.uniform(9, 13)], centers + halves])
    lengths = np.exp(rng.uniform(np.log(1.4), np.log(3.5), (boxes + 1, waves, 1)))
    lengths[1:] *= 0.45  # near things show finer texture
    directions = rng.normal(size=(boxes + 1, waves, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    weights = rng.uniform(0.5, 1, (boxes + 1, waves))
    dark, bright = rng.uniform(0, 0.3, (boxes + 1, 3)), rng.uniform(0.6, 1, (boxes + 1, 3))
    return Scene(*(array.astype(np.float32) for array in (
        low, high, 2 * np.pi * directions / lengths, rng.uniform(0, 2 * np.pi, (boxes + 1, waves)),
        weights / weights.sum(1, keepdims=True), np.stack([dark, bright], 1), rng.uniform(0.7, 1, 3),
    )))  # fmt: skip


def with_target(scene: Scene, track: Track, rng: np.random.Generator) -> tuple[Scene, Track]:
    """The scene with a plain red box in it, in sight in every frame, and its track.

    Objects nearer than the box are removed, so that nothing hides it.
    """
    while True:
        center = rng.uniform((-0.6, -0.5, 1.7), (0.6, 0.5, 2.0))
        half = rng.uniform((0.16, 0.16, 0.05), (0.34, 0.34, 0.12))
        target_23 = np.stack([center - half, center + half])
        track = replace(track, target_23=target_23)
        boxes_T4 = boxes_of_track(track)
        if boxes_T4.min() > 0 and boxes_T4.max() < 100:
            break
    low, high = target_23[:, None].astype(np.float32)
    stays = np.append(True, scene.low_B3[1:, 2] > high[0, 2])  # the room always does
    plain = [
        ("low_B3", low),
        ("high_B3", high),
        ("waves_BK3", np.zeros_like(scene.waves_BK3[:1])),
        ("phases_BK", np.zeros_like(scene.phases_BK[:1])),
        ("weights_BK", np.zeros_like(scene.weights_BK[:1])),
        ("colors_B23", np.full_like(scene.colors_B23[:1], TARGET_COLOR)),
    ]
    return replace(scene, **{name: np.concatenate([getattr(scene, name)[stays], new]) for name, new in plain}), track


def render_frames(scene: Scene, track: Track) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of `scene` as the camera of `track` sees it, one ray per pixel."""
    frames, size = len(track.focal_T), track.size
    grid = np.arange(size) + 0.5 - size / 2
    pixels = np.stack([np.tile(grid, size), np.repeat(grid, size), np.ones(size * size)])
    origin = np.repeat(track.positions_T3, size * size, axis=0).T.astype(np.float32)
    rays = [turn @ (pixels / [[focal], [focal], [1]]) for turn, focal in zip(track.rotations_T33, track.focal_T)]
    ray = np.concatenate(rays, axis=1).astype(np.float32)
    ray[np.abs(ray) < 1e-6] = 1e-6  # a ray along a wall never meets it
    per_metre = 1 / ray

    def slabs(box: int) -> tuple[np.ndarray, np.ndarray]:
        """Distance [3, rays] at which each ray enters and leaves the slab between a box's faces, per axis."""
        one = (scene.low_B3[box, :, None] - origin) * per_metre
        two = (scene.high_B3[box, :, None] - origin) * per_metre
        return np.minimum(one, two), np.maximum(one, two)

    walls = slabs(0)[1]
    face = walls.argmin(0)
    distance = walls.min(0)
    hit = np.zeros(len(distance), np.int64)
    for box in range(1, len(scene.low_B3)):
        enter, leave = slabs(box)
        near = enter.max(0)
        seen = np.flatnonzero((near < leave.min(0)) & (near > 0.05) & (near < distance))
        distance[seen], hit[seen], face[seen] = near[seen], box, enter[:, seen].argmax(0)

    points = origin + distance * ray
    color = np.empty((len(hit), 3), np.float32)
    for box in range(len(scene.low_B3)):
        seen = np.flatnonzero(hit == box)
        waves = np.sin(scene.waves_BK3[box] @ points[:, seen] + scene.phases_BK[box, :, None])
        shade = np.clip(0.5 + 0.8 * scene.weights_BK[box] @ waves, 0, 1)[:, None]
        dark, bright = scene.colors_B23[box]
        color[seen] = dark + shade * (bright - dark)
    color *= scene.light_3[face][:, None] * 255
    return color.astype(np.uint8).reshape(frames, size, size, 3)


def write_clip(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write frames uint8 [T, H, W, 3] (even height and width) as H.264; the same frames give the same bytes."""
    with whole_path(path) as partial, av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as clip:
        stream = clip.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.options = {"crf": "16", "preset": "ultrafast", "threads": "1"}
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        clip.mux(stream.encode())


def read_clip(path: Path) -> np.ndarray:
    """All frames of a clip, uint8 [T, H, W, 3]."""
    with av.open(str(path)) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])

"""Rendered clips as the video files of a data set: named, sized and laid out as its publisher does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_tools.files import write_text
from data_tools.rendered.scene import boxes_of_track, draw_scene, draw_track, render_frames, with_target, write_clip
from data_tools.tracks import Track, motion_of_track, span_of_track

Kind = Literal["motion", "moment", "tracked", "sign", "poor"]
SIGNS = ("STOP", "EXIT", "OPEN", "TAXI")
SIDE = 56  # pixels; width and height of what is rendered
# Apparent speed per frame: fast enough for its start and stop to be seen, slow enough for the box to stay in sight.
SPEEDS: dict[Kind, tuple[float, float]] = {"moment": (0.02, 0.03), "tracked": (0.008, 0.015)}


@dataclass(frozen=True)
class Shot:
    """A video file, and what its camera track shows.

    Attributes:
        motion: of the camera.
        duration: in seconds.
        span: seconds between which the camera moves; None where it does so all the time, or never.
        boxes_T4: around the red box in each frame, as shares of width and height; None where there is none.
        sign: the word in the picture; "" where there is none.
        poor: whether its picture is coarse.
    """

    motion: str
    duration: float
    span: tuple[float, float] | None = None
    boxes_T4: np.ndarray | None = None
    sign: str = ""
    poor: bool = False

    def boxes(self, count: int) -> list[list[float]]:
        """`count` boxes, evenly spread over the clip, the first and the last frame among them."""
        assert self.boxes_T4 is not None, "nothing is tracked in this clip"
        chosen = np.linspace(0, len(self.boxes_T4) - 1, count).round().astype(int)
        return [[round(float(edge), 3) for edge in box] for box in self.boxes_T4[chosen]]


@dataclass(frozen=True)
class Camera:
    """Films clips under `folder`. What a clip shows depends on the seed and its name alone.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     shot = Camera(Path(folder)).film("video/a.mp4", "pan_left", "moment", seconds=4)
        ...     made = Path(folder, "video/a.mp4").is_file()
        >>> made, shot.motion, shot.duration
        (True, 'pan_left', 4.0)
    """

    folder: Path
    seed: int = 0

    def film(
        self,
        name: str,
        motion: str,
        kind: Kind = "motion",
        seconds: int = 3,
        fps: float = 4.0,
        size: tuple[int, int] = (SIDE, SIDE),
    ) -> Shot:
        """Film one clip.

        Args:
            kind: `moment`: the camera is still, moves, and is still again; `tracked`: a red box stays in sight; `sign`:
                a word stands in the picture; `poor`: a coarse picture.
            size: width and height in pixels, both even and of at most `SIDE`; the picture's edges are cut off.
        """
        rng = np.random.default_rng([self.seed, *name.encode()])
        frames = round(seconds * fps)
        span = _span(rng, seconds) if kind == "moment" else None
        speeds = SPEEDS.get(kind, (0.5 / frames, 0.8 / frames))
        scene = draw_scene(rng)
        track = draw_track(motion, rng, frames, SIDE, fps, speeds=speeds, span=span)
        if kind == "tracked":
            scene, track = with_target(scene, track, rng)
        pictures = render_frames(scene, track)
        sign = str(rng.choice(SIGNS)) if kind == "sign" else ""
        if sign:
            pictures = _with_sign(pictures, sign)
        if kind == "poor":
            pictures = pictures[:, ::7, ::7].repeat(7, axis=1).repeat(7, axis=2)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, _cut(pictures, size), fps)
        return _shot(track, kind, sign)

    def photograph(self, name: str, poor: bool = False, size: tuple[int, int] = (SIDE, SIDE)) -> None:
        """Take one picture, as a JPEG file.

        Args:
            poor, size: as of `film`.
        """
        rng = np.random.default_rng([self.seed, *name.encode()])
        picture = render_frames(draw_scene(rng), draw_track("static", rng, 2, SIDE, 2.0))[0]
        if poor:
            picture = picture[::7, ::7].repeat(7, axis=0).repeat(7, axis=1)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).resize(size).save(path, quality=95)

    def break_off(self, name: str) -> None:
        """A video file that no decoder can read: the download broke off."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "<html>503 Service Unavailable</html>")


def _shot(track: Track, kind: Kind, sign: str) -> Shot:
    return Shot(
        motion=motion_of_track(track),
        duration=len(track.focal_T) / track.fps,
        span=span_of_track(track) if kind == "moment" else None,
        boxes_T4=boxes_of_track(track) / 100 if track.target_23 is not None else None,
        sign=sign,
        poor=kind == "poor",
    )


def _span(rng: np.random.Generator, seconds: int) -> tuple[float, float]:
    """Whole seconds within the clip; at least one of movement, and one of standstill."""
    start = int(rng.integers(0, seconds - 1))
    return float(start), float(rng.integers(start + 1, seconds if start == 0 else seconds + 1))


def _with_sign(pictures: np.ndarray, word: str) -> np.ndarray:
    """A white sign with a word in the middle of every frame."""
    shown = []
    for picture in pictures:
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        draw.rectangle((2, 18, SIDE - 3, 38), fill="white")
        draw.text((SIDE // 2, 28), word, fill="black", anchor="mm", font=ImageFont.load_default(size=17))
        shown.append(np.asarray(image))
    return np.stack(shown)


def _cut(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of each frame, `size` wide and high."""
    width, height = size
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    return pictures[:, top : top + height, left : left + width]

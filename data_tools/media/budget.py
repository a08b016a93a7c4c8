"""The media budget: which frames of a video are taken, at which size, and which images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, floor, sqrt
from typing import Any, ClassVar, Literal

from data_tools.media.child import ClipError
from rewards.errors import UserError

VERSION = 2  # of what a budget makes of a video; part of every clip's name
FRAMES_PER_PATCH = 2  # Qwen's vision towers merge two frames
# qwen-vl-utils 0.0.14, vision_process.py:25 and :31, shrinks what takes more tokens per pair of frames or in all.
PAIR_TOKENS, CLIP_TOKENS = 768, 0.9 * 128_000
# Qwen3-VL's own processor shrinks a clip of more pixels in all (its video_preprocessor_config.json: longest_edge).
CLIP_PIXELS = {32: 25_165_824}  # by token_side
# qwen-vl-utils 0.0.14, vision_process.py:26 and :27, enlarges an image of fewer tokens, and shrinks one of more.
STILL_TOKENS = 4, 16_384
LEAST_TOKENS = {32: 64}  # Qwen3-VL's own processor enlarges more (its preprocessor_config.json: shortest_edge)


class MediaError(UserError):
    """A budget that cannot be kept, or clips that were made with another one; the message says what to do."""


@dataclass(frozen=True)
class Budget:
    """What every stage takes from a video.

    Attributes:
        fps: frames per second; 1000 / fps is a whole number of milliseconds.
        max_frames: `uniform` spreads this many over a video that is too long, `head` takes its first ones.
        min_frames: a video that is too short is sampled more densely.
        max_pixels, min_pixels: per frame; the aspect ratio is kept as far as whole tokens allow.
        token_side: pixels along the side of a visual token (patch times merge): 28 in Qwen2.5-VL, 32 in Qwen3-VL.

    Raises:
        MediaError: naming the setting.
    """

    fps: float
    max_frames: int
    min_frames: int
    max_pixels: int
    min_pixels: int
    sampler: Literal["uniform", "head"] = "uniform"
    token_side: int = 28
    TOGETHER: ClassVar[int] = FRAMES_PER_PATCH  # frames that make one patch

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 500 or abs(1000 / self.fps - round(1000 / self.fps)) > 1e-6:
            raise MediaError(
                f"fps {self.fps:g}: 1000 / fps must be a whole number of milliseconds: 1, 2, 4, 5, 8, 10 …"
            )
        if self.max_frames % self.TOGETHER or self.min_frames % self.TOGETHER:
            raise MediaError(f"max_frames {self.max_frames}, min_frames {self.min_frames}: frames are taken in pairs")
        if not FRAMES_PER_PATCH <= self.min_frames <= self.max_frames:
            raise MediaError(f"min_frames {self.min_frames} must lie between 2 and max_frames {self.max_frames}")
        self._require_pixels()
        if self.min_pixels > self.max_pixels / 4:
            raise MediaError(f"min_pixels {self.min_pixels} must be at most a quarter of max_pixels {self.max_pixels}")

    def _require_pixels(self) -> None:
        """Refuse frames that Qwen's loader would change."""
        token = self.token_side**2
        most = int(token * min(PAIR_TOKENS, FRAMES_PER_PATCH * CLIP_TOKENS / self.max_frames))
        if self.token_side in CLIP_PIXELS:
            most = min(most, CLIP_PIXELS[self.token_side] // self.max_frames)
        if not token <= self.max_pixels <= most:
            raise MediaError(
                f"max_pixels {self.max_pixels}: {token} (one visual token) to {most}, beyond which Qwen's loader "
                f"shrinks the {self.max_frames} frames"
            )

    @property
    def step_ms(self) -> int:
        return round(1000 / self.fps)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class FrameImages(Budget):
    """The same of a video that is shown as still images, one a frame, each of which is encoded alone.

    Nothing tells the model the times of the images: those of the budget's rate are how its frames were taken.
    """

    as_images: bool = True
    TOGETHER: ClassVar[int] = 1

    def _require_pixels(self) -> None:
        least, most = loader_pixels(self.token_side)
        if not least <= self.min_pixels or not self.max_pixels <= most:
            raise MediaError(
                f"min_pixels {self.min_pixels}, max_pixels {self.max_pixels}: as images frames have {least} to {most} "
                "pixels, beyond which Qwen's loader changes their size"
            )


def budget_from(settings: Mapping[str, Any]) -> Budget:
    """The budget of settings that were written with `asdict`."""
    return FrameImages(**settings) if settings.get("as_images") else Budget(**settings)


def loader_pixels(token_side: int) -> tuple[int, int]:
    """Fewest and most pixels of an image that Qwen's loaders leave as it is."""
    few, many = STILL_TOKENS
    return LEAST_TOKENS.get(token_side, few) * token_side**2, many * token_side**2


@dataclass(frozen=True)
class Stills:
    """What every stage takes of an image.

    Attributes:
        max_pixels, min_pixels: per image; the aspect ratio is kept as far as whole tokens allow.
        most: images of a sample.
        token_side: as in `Budget`.

    Raises:
        MediaError: naming the setting.
    """

    max_pixels: int
    min_pixels: int
    most: int
    token_side: int = 28

    def __post_init__(self) -> None:
        least, most = loader_pixels(self.token_side)
        if not 4 * least <= self.max_pixels <= most:
            raise MediaError(
                f"images.max_pixels {self.max_pixels}: {4 * least} to {most}, beyond which Qwen's loader shrinks images"
            )
        if not least <= self.min_pixels <= self.max_pixels / 4:
            raise MediaError(
                f"images.min_pixels {self.min_pixels}: {least}, below which Qwen's loader enlarges images, to a "
                f"quarter of max_pixels {self.max_pixels}"
            )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


def sampling(duration: float, budget: Budget) -> tuple[int, int]:
    """Number of frames, and the step between them in milliseconds, for a video of `duration` seconds.

    A video that fits is sampled at the budget's rate to its end, half a step more or less, in pairs of frames
    (images: one by one). Any other is covered evenly, by max_frames or min_frames, at a rate of its own.
    """
    wanted = duration * budget.fps
    if budget.sampler == "head":
        wanted = min(wanted, budget.max_frames)
    frames = budget.TOGETHER * ceil((wanted - 0.5) / budget.TOGETHER)
    if budget.min_frames <= frames <= budget.max_frames:
        return frames, budget.step_ms
    frames = min(max(frames, budget.min_frames), budget.max_frames)
    return frames, max(1, round(1000 * duration / frames))


def frame_size(width: int, height: int, budget: Budget | Stills) -> tuple[int, int]:
    """Width and height of a frame or an image in Qwen's loaders under the budget (qwen-vl-utils 0.0.14, smart_resize).

    Raises:
        ClipError: so narrow that no such size keeps the budget.
    """
    side = budget.token_side
    wide, high = (max(side, round(length / side) * side) for length in (width, height))
    if wide * high > budget.max_pixels:
        shrink = sqrt(width * height / budget.max_pixels)
        wide, high = (max(side, floor(length / shrink / side) * side) for length in (width, height))
    elif wide * high < budget.min_pixels:
        grow = sqrt(budget.min_pixels / (width * height))
        wide, high = (ceil(length * grow / side) * side for length in (width, height))
    if not budget.min_pixels <= wide * high <= budget.max_pixels or max(wide, high) > 180 * min(wide, high):
        raise ClipError(
            "shape",
            f"{width} x {height} pixels are too narrow for the budget of {budget.min_pixels} to {budget.max_pixels} in "
            f"squares of {side} x {side}: take one of more pixels (media.max_pixels)",
        )
    return wide, high

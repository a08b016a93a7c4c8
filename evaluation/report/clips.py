"""Clips and images as a page shows them: frames side by side, and previews that browsers play."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_tools.media.packets import open_video
from data_tools.media.stills import picture_of
from evaluation.runs import RunError, need

STRIP_FRAMES, STRIP_HEIGHT = 8, 120  # frames and pixels, at most
PREVIEW_SIDE, PREVIEW_FRAMES = 320, 64  # pixels of the longer side and frames, at most
PREVIEW_BYTES = 64 << 20  # of all previews of a report
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FOLDER = "clips"  # of the previews, beside the page


@dataclass
class Clips:
    """Decodes clips and images, each at most twice, and keeps the clips' previews until they are written.

    Attributes:
        files: name in FOLDER -> bytes of an H.264 preview.
        left_out: clips without a preview, since all together would be beyond PREVIEW_BYTES.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    left_out: int = 0
    _links: dict[Path, str | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))

    def images(
        self, paths: Sequence[Path], stage: str, height: int = STRIP_HEIGHT, quality: int = 90
    ) -> dict[str, str | None]:
        """Images side by side, as `shown` gives frames of a clip.

        Raises:
            RunError: one is missing or broken.
        """
        paths = [need(path, stage) for path in paths]
        try:
            pictures = [np.asarray(picture_of(path)[0]) for path in paths]
        except ValueError as error:  # of which a ClipError is one
            raise RunError(f"an image cannot be decoded ({error}): run the stage {stage!r} again") from error
        return {"strip": strip(pictures, height, quality), "video": None}

    def shown(self, path: Path, stage: str, height: int = STRIP_HEIGHT, quality: int = 90) -> dict[str, str | None]:
        """`strip`, a data URI of frames side by side, and `video`, the relative link of a preview (None without one).

        Args:
            stage: that makes the clip.

        Raises:
            RunError: the clip is missing or broken.
        """
        path = need(path, stage)
        try:
            frames, fps = _read(path)
        except (av.FFmpegError, ValueError) as error:  # ValueError: no frame in it
            raise RunError(f"{path} cannot be decoded ({error}): run the stage {stage!r} again") from error
        if path not in self._links:
            self._links[path] = self._add(path, preview(frames, fps))
        return {"strip": strip(frames, height, quality), "video": self._links[path]}

    def _add(self, path: Path, content: bytes) -> str | None:
        if self.size + len(content) > PREVIEW_BYTES:
            self.left_out += 1
            return None
        name = f"{sha256(content).hexdigest()[:16]}.mp4"
        self.files[name] = content
        return f"{FOLDER}/{name}"


def preview_of(path: Path) -> bytes:
    """A preview of a clip: MP4; of an image: JPEG.

    Raises:
        RunError: it cannot be decoded.
    """
    try:
        if path.suffix.lower() in IMAGES:
            picture, _ = picture_of(path)
            picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
            out = BytesIO()
            picture.save(out, "JPEG")
            return out.getvalue()
        return preview(*_read(path))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise RunError(f"{path} cannot be decoded ({error})") from error


def _read(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames of a clip, uint8 [H, W, 3] each, and how many are shown in a second."""
    with open_video(path) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        rate = file.streams.video[0].average_rate
    if not frames:
        raise ValueError("no frame in it")
    return frames, float(rate or 1)


def _scaled(frame: np.ndarray, scale: float, even: bool = False) -> Image.Image:
    height, width = (round(side * min(1.0, scale)) for side in frame.shape[:2])
    if even:  # 4:2:0 halves the colour in both directions
        height, width = (max(2, side - side % 2) for side in (height, width))
    return Image.fromarray(frame).resize((max(1, width), max(1, height)))


def strip(frames: list[np.ndarray], most: int = STRIP_HEIGHT, quality: int = 90) -> str:
    """Frames side by side, spread evenly over the clip, as a data URI."""
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), STRIP_FRAMES)).round().astype(int)
    shown = [_scaled(frames[index], most / frames[index].shape[0]) for index in chosen]
    height = max(picture.height for picture in shown)
    sheet = Image.new("RGB", (sum(picture.width + 3 for picture in shown) - 3, height), "white")
    left = 0
    for picture in shown:
        sheet.paste(picture, (left, 0))
        left += picture.width + 3
    return jpeg_uri(sheet, quality)


def preview(frames: list[np.ndarray], fps: float) -> bytes:
    """A small MP4 that every browser plays: H.264, 4:2:0. Normalised clips are lossless RGB, which none does."""
    every = -(-len(frames) // PREVIEW_FRAMES)
    out = BytesIO()
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps / every).limit_denominator(1000))
        stream.options = {"crf": "30", "preset": "veryfast", "threads": "1"}
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames[::every]):
            picture = _scaled(frame, PREVIEW_SIDE / max(frame.shape[:2]), even=True)
            if not number:
                stream.width, stream.height = picture.size
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
    return out.getvalue()


def jpeg_uri(picture: Image.Image, quality: int = 90) -> str:
    out = BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"

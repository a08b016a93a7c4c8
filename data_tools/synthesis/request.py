"""A sample with its clip or images as a request to the generator."""

import mimetypes
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data_tools.media.child import ClipError, clip_path
from data_tools.media.packets import open_video
from data_tools.media.stills import picture_of
from data_tools.media.store import normalise_one, normalise_still, paths_of
from data_tools.prompt import user_text, without_media
from data_tools.sample import BY_OPTION, IMAGE, VIDEO, Cut, Sample
from data_tools.synthesis.settings import Settings
from rewards.errors import UserError
from rewards.judges.client import data_url


def request_for(sample: Sample, settings: Settings) -> list[dict[str, Any]]:
    """Chat messages that ask for the chain of a sample.

    Raises:
        SampleFailure: the clip, or an image, is missing, empty, outside the media root or cannot be decoded.
    """
    lines = [user_text(sample).removeprefix(VIDEO)]
    if settings.reveal_answer:
        lines.append(f"The right answer is: {without_media(gold_text(sample))}")
    if settings.instruction:
        lines.append(settings.instruction)
    text, parts = "\n".join(lines), clip_parts(sample, settings)
    if not sample.images:
        return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    texts = [{"type": "text", "text": between} if between else None for between in text.split(IMAGE)]
    around = [part for pair in zip_longest(texts, parts) for part in pair if part]
    return [{"role": "user", "content": around}]


def gold_text(sample: Sample) -> str:
    """The right answer in words: what an answer-conditioned generator is shown."""
    if sample.task in BY_OPTION:
        return f"{sample.answer}. {sample.answer_text}"
    parts = [sample.answer] if sample.answer else []
    parts += [f"{start:g} to {end:g} seconds" for start, end in sample.spans]
    parts += [f"[{', '.join(f'{edge:g}' for edge in box)}]" for box in sample.boxes]
    return "; ".join(parts + sample.events)


class SampleFailure(UserError):
    """A sample that cannot get a chain now; the run continues without it."""


def clips_of(sample: Sample, settings: Settings) -> list[Path]:
    """Paths of the sample's clip or images: in the media budget, or as they are where there is no budget.

    Raises:
        SampleFailure: one is broken, missing or empty, or lies outside the media root, even by a link; or there are
            more images than the budget takes.
    """
    root = Path(settings.media_root).resolve()
    try:
        return [_clip_of(cut, bool(sample.images), root, settings) for cut in sample.cuts]
    except ClipError as error:
        raise SampleFailure(f"{sample.shows}: {error.message}") from error


def _clip_of(cut: Cut, image: bool, root: Path, settings: Settings) -> Path:
    if settings.budget is not None and image:
        if settings.stills is None:
            raise SampleFailure("images: the media budget takes none: give media.images")
        return settings.clips / normalise_still(cut.video, root, settings.clips, settings.stills).image
    if settings.budget is not None:
        return settings.clips / paths_of(normalise_one(cut, root, settings.clips, settings.budget))[0]
    if cut.is_part or cut.frames:
        raise SampleFailure(f"{cut} is not a clip yet: give synthesis.normalise=true")
    clip = clip_path(root, cut.video).resolve()
    if not clip.is_file() or not clip.stat().st_size:
        raise ClipError("missing", f"{clip} is missing or empty")
    return clip


def clip_parts(sample: Sample, settings: Settings) -> list[dict[str, Any]]:
    """The clip, or each image, as parts of a message, in the way that `settings.send` says.

    Raises:
        SampleFailure: see `clips_of`.
    """
    if sample.images:
        pictures = clips_of(sample, settings)
        return [_image_part(path.as_uri() if settings.send == "file" else _data(path)) for path in pictures]
    (clip,) = clips_of(sample, settings)
    if settings.send == "file":
        return [{"type": "video_url", "video_url": {"url": clip.as_uri()}}]
    if settings.send == "data":
        return [{"type": "video_url", "video_url": {"url": _data(clip)}}]
    return [_image_part(data_url(picture, "image/jpeg")) for picture in jpeg_frames(clip, settings.frames)]


def _image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _data(path: Path) -> str:
    return data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "video/mp4")


def previews(sample: Sample, settings: Settings, count: int, longest_side: int) -> list[bytes]:
    """Small JPEG pictures of what the sample shows: `count` frames of its clip, or each image.

    Raises:
        SampleFailure: see `clips_of`.
    """
    if not sample.images:
        return jpeg_frames(clips_of(sample, settings)[0], count, longest_side)
    pictures = []
    try:
        for path in clips_of(sample, settings):
            out, (picture, _) = BytesIO(), picture_of(path)
            picture.thumbnail((longest_side, longest_side))
            picture.save(out, "JPEG", quality=90)
            pictures.append(out.getvalue())
    except ClipError as error:
        raise SampleFailure(f"images: {error.message}") from error
    return pictures


def jpeg_frames(clip: Path, count: int, longest_side: int | None = None) -> list[bytes]:
    """`count` frames of a clip as JPEG, evenly spread, in one pass.

    Raises:
        SampleFailure: the clip cannot be decoded.
    """
    import av

    try:
        with open_video(clip) as file:
            total = sum(packet.pts is not None for packet in file.demux(video=0))
        count = min(count, total)
        wanted = {round(step * (total - 1) / max(count - 1, 1)) for step in range(count)}
        pictures = []
        with open_video(clip) as file:
            for number, frame in enumerate(file.decode(video=0)):
                if number in wanted:
                    picture = frame.to_image()
                    if longest_side:
                        picture.thumbnail((longest_side, longest_side))
                    out = BytesIO()
                    picture.save(out, "JPEG", quality=90)
                    pictures.append(out.getvalue())
    except (av.error.FFmpegError, IndexError, ValueError) as error:  # a ClipError is a ValueError
        raise SampleFailure(f"video: {clip}: {error}") from error
    if not pictures:
        raise SampleFailure(f"video: {clip} has no frame")
    return pictures

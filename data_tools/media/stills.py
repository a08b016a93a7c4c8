"""Decode a source image once, into a lossless picture of the final size that every stage sees.

It is shown as viewers do: turned and mirrored as its header asks, in RGB, what is transparent in white. Pictures are
named by the source's content and the budget, as clips are, and lie beside them.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from data_tools.files import sha256, whole_path, write_json
from data_tools.media.budget import VERSION, Stills, frame_size
from data_tools.media.child import ClipError, serve

Image.MAX_IMAGE_PIXELS = 2**27  # Pillow refuses more than twice as many, 16,384 x 16,384: 4 GB while it decodes
# What Pillow may take a file for, whatever its name: of its others some start programs (EPS: Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True, slots=True)
class Still:
    """A normalised image.

    Attributes:
        image: its path under the store.
        width, height: pixels, multiples of a visual token's side.
        source_sha256: of the source's bytes.
    """

    image: str
    width: int
    height: int
    source_sha256: str

    def tokens(self, side: int, announcement: int = 0) -> int:
        """Visual tokens, each of `side` pixels; nothing announces an image."""
        return (self.width // side) * (self.height // side)


@dataclass(frozen=True)
class StillInfo:
    """An image that decodes: pixels as it is shown, format and colours in Pillow's words, and the hash of its bytes."""

    width: int
    height: int
    kind: str
    sha256: str


def picture_of(path: Path) -> tuple[Image.Image, str]:
    """The image as viewers show it, in RGB; and its format and colours in Pillow's words.

    Raises:
        ClipError: it is no image, broken, or too large to decode.
    """
    with opened(path) as image:
        kind = f"{image.format}, {image.mode}"
        shown = ImageOps.exif_transpose(image) or image
        if shown.has_transparency_data:
            over = shown.convert("RGBA")
            white = Image.new("RGBA", over.size, "white")
            shown = Image.alpha_composite(white, over)
        return shown.convert("RGB"), kind


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header is read, for a block that may decode it.

    Raises:
        ClipError: see `picture_of`.
    """
    Image.init()  # else it knows some of the formats alone
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ClipError("no_image", "is not an image") from error
    except Image.DecompressionBombError as error:
        raise ClipError("too_large", str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise ClipError("undecodable", str(error)) from error


def normalise(path: Path, budget: Stills, store: Path) -> Still:
    """Write the picture and then, as JSON next to it, what it holds; or find both there.

    Raises:
        ClipError: the image is broken or too narrow.
    """
    source = sha256(path)
    content = json.dumps([VERSION, source, asdict(budget)])
    name = hashlib.sha256(content.encode()).hexdigest()[:40]
    target = store / name[:2] / f"{name}.png"
    facts = target.with_suffix(".json")
    if facts.exists() and target.exists():
        return Still(**json.loads(facts.read_text())["still"])
    picture, _ = picture_of(path)
    width, height = frame_size(*picture.size, budget)
    with whole_path(target) as unfinished:
        picture.resize((width, height), Image.Resampling.BICUBIC).save(unfinished, "PNG")
    still = Still(f"{name[:2]}/{target.name}", width, height, source)
    write_json(facts, {"version": VERSION, "budget": asdict(budget), "still": asdict(still)})
    return still


def probe_here(path: Path) -> StillInfo:
    """What an image file holds."""
    picture, kind = picture_of(path)
    width, height = picture.size
    return StillInfo(width, height, kind, sha256(path))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(lambda path, budget, store: normalise(path, Stills(**budget), Path(store)))
    else:
        serve(probe_here)

"""The page of a check: what was kept, what was left out and why, and what to do next."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from shlex import quote as quoted
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from data_tools.files import write_text
from data_tools.quarantine import Rejected
from data_tools.run_folder import SPLITS
from data_tools.templates import template

if TYPE_CHECKING:
    from data_tools.check import Findings

LISTED = 200  # quarantined records on the page; quarantine.jsonl has all
_NAMED = 8  # images or frames of a record that the page names
_LONGEST = 1 << 20  # bytes of a line that is read once more for the page
EDGES: Mapping[str, tuple[float, ...]] = {
    "words per question": (0, 5, 10, 20, 40, 80, 160),
    "words per chain": (0, 25, 50, 100, 200, 400, 800),
    "seconds": (0, 1, 2, 5, 10, 30, 60, 300),
    "frames per second": (0, 5, 10, 20, 24, 25, 30, 31, 60),
    "frames": (0, 2, 16, 64, 256, 1024, 4096),
    "shorter side, pixels": (0, 64, 240, 360, 480, 720, 1080),
    "shorter side of an image, pixels": (0, 64, 240, 360, 480, 720, 1080, 2160),
    "images per sample": (1, 2, 3, 4, 5, 9),
}


@dataclass(frozen=True)
class LeftOut:
    """A quarantined record with what it says of itself, as far as it can be read."""

    rejected: Rejected
    split: str
    media: tuple[str, ...]


def left_out(rejected: Rejected, line: bytes) -> LeftOut:
    """Read what a record that is no valid sample says of itself.

    Example:
        >>> broken = Rejected("rl.jsonl", "3", "video", "no_video")
        >>> left_out(broken, b'{"id": "a", "split": "rl", "video": "a.mp4"}').media
        ('a.mp4',)
        >>> left_out(broken, b'{"id": "a"}').rejected.id
        'a'
        >>> left_out(Rejected("rl.jsonl", "4", "record", "not JSON"), b"{").split
        ''
    """
    try:
        said: Any = json.loads(line) if len(line) <= _LONGEST else {}
    except (ValueError, RecursionError):
        said = {}
    said = said if isinstance(said, dict) else {}
    shown = said.get("images") or said.get("frames") or said.get("video")
    split = said.get("split")
    id = str(said.get("id") or "")[:80]
    names = (shown if isinstance(shown, list) else [shown])[:_NAMED]
    media = tuple(_writable(name[:200]) for name in names if isinstance(name, str))
    return LeftOut(replace(rejected, id=_writable(id)), split if split in SPLITS else "", media)


def _writable(text: str) -> str:
    """Half a pair of UTF-16, which JSON can name and no file can hold, becomes a question mark."""
    return text.encode(errors="replace").decode()


def write_page(path: Path, found: "Findings", media_root: Path | None, clean: Sequence[Path]) -> None:
    """Write the page.

    Args:
        media_root: folder of the videos; None where the labels alone were checked.
        clean: files of the records kept.
    """
    top = sorted(found.templates.items(), key=lambda item: -sum(item[1].values()))
    page = template(Path(__file__).with_name("check.html.j2")).render(
        found=found,
        names=", ".join(Path(file).name for file in found.files),
        media_root=media_root and quoted(str(media_root)),
        clean=clean,
        left_out=[(each, _links(each, media_root, path.parent)) for each in found.listed],
        templates=top[:25],
        more_templates=max(0, len(top) - 25),
        lengths={name: _bars(EDGES[name], counts) for name, counts in found.lengths.items()},
        by_count=lambda counts: sorted(counts.items(), key=lambda item: -item[1]),
    )
    write_text(path, page)


def _links(left: LeftOut, root: Path | None, page: Path) -> list[tuple[str, str]]:
    """Its clips and images, each with where the page finds it; empty where no such file is below the media root."""
    found = []
    for name in left.media:
        below = not os.path.isabs(name) and ".." not in Path(name).parts
        there = root is not None and below and os.path.isfile(root / name)
        found.append((name, quote(os.path.relpath(root / name, page)) if root and there else ""))
    return found


def _bars(edges: Sequence[float], counts: Mapping[float, int]) -> list[tuple[str, int]]:
    """(range, count) of each bin from the first to the last that is not empty."""
    names = [f"{low:g} – {high:g}" for low, high in pairwise(edges)] + [f"{edges[-1]:g} and more"]
    return [(name, counts.get(edge, 0)) for name, edge in zip(names, edges) if min(counts) <= edge <= max(counts)]

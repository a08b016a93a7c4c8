"""The store of normalised clips and images: each named by its source's content and the budget, and made once."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.files import write_json
from data_tools.media.budget import VERSION, Budget, FrameImages, MediaError, Stills, budget_from
from data_tools.media.cache import Progress, VideoCache, each_video
from data_tools.media.child import ClipError, ask_child, clip_path
from data_tools.media.normalise import Clip, ClipImages
from data_tools.media.parallel import ALL_CORES, Map
from data_tools.media.pictures import source_of
from data_tools.media.stills import Still
from data_tools.sample import Cut

# A part of a video, or an image, in a budget: what one clip, or one picture, is made of.
Wish = tuple[Cut, Budget | Stills]
Medium = Clip | Still | ClipImages
CHILD = (sys.executable, "-P", "-m", "data_tools.media.normalise")
STILLS_CHILD = (sys.executable, "-P", "-m", "data_tools.media.stills", "normalise")


def normalise_all(
    cuts: Sequence[Cut],
    media_root: Path,
    store: Path,
    budget: Budget | Stills,
    each: Map = ALL_CORES,
    timeout_s: float = 300,
    progress: Progress = lambda done, total: None,
    links_into: Sequence[Path] = (),
) -> Iterator[tuple[Cut, Medium | ClipError]]:
    """Each video, part of one, or image, with what was made of it, or why not; those first that an earlier run made.

    Args:
        cuts: their paths are relative to `media_root`.
        store: folder of the clips; shared by runs and budgets.
        each: runs the work; over a cluster, all nodes must see the same files.
        timeout_s: per video; its process is killed then, and another one takes its place.
        progress: called with the number of videos that are done, and their total.
        links_into: see `clip_path`.
    """
    kind: type[Medium] = Still if isinstance(budget, Stills) else _kind_of(budget)
    cache: VideoCache[Medium] = VideoCache(
        store / "log.jsonl", media_root, kind, version=VERSION, budget=asdict(budget)
    )
    work = partial(_clip_or_fault, (media_root, *links_into), store.resolve(), budget, timeout_s)
    yield from each_video(
        cuts,
        work,
        cache,
        each,
        progress,
        usable=lambda answer: (
            isinstance(answer, ClipError) or all((store / path).exists() for path in paths_of(answer))
        ),
    )


def _kind_of(budget: Budget) -> type[Clip | ClipImages]:
    return ClipImages if isinstance(budget, FrameImages) else Clip


def paths_of(made: Medium) -> list[str]:
    """Where a clip or its images, or a picture, lie under the store."""
    if isinstance(made, ClipImages):
        return made.images
    return [made.image if isinstance(made, Still) else made.video]


def moved(made: Medium, folder: str) -> Medium:
    """The same, with paths that begin with `folder`."""
    first, *_ = paths = [f"{folder}/{path}" for path in paths_of(made)]
    if isinstance(made, ClipImages):
        return replace(made, images=paths)
    return replace(made, image=first) if isinstance(made, Still) else replace(made, video=first)


def by_path(media: Iterable[Medium]) -> dict[str, Clip | Still]:
    """Path of each clip and of each picture, also of those that are a clip's, -> what it holds."""
    found: dict[str, Clip | Still] = {}
    for made in media:
        singles = made.stills if isinstance(made, ClipImages) else [made]
        found |= {paths_of(single)[0]: single for single in singles}
    return found


def _clip_or_fault(
    roots: Sequence[Path], store: Path, budget: Budget | Stills, timeout_s: float, cut: Cut
) -> Medium | ClipError:
    try:
        if isinstance(budget, Stills):
            return normalise_still(cut.video, roots[0], store, budget, timeout_s, roots[1:])
        return normalise_one(cut, roots[0], store, budget, timeout_s, roots[1:])
    except ClipError as error:
        return error


def normalise_one(
    cut: Cut, media_root: Path, store: Path, budget: Budget, timeout_s: float = 300, links_into: Sequence[Path] = ()
) -> Clip | ClipImages:
    """The clip of one video or part of one, found in the store by the video's content, or made.

    Raises:
        ClipError: the video cannot be used.
    """
    wish = {"budget": asdict(budget), "store": str(store.resolve()), "start": cut.start, "end": cut.end, "fps": cut.fps}
    return _kind_of(budget)(**ask_child(source_of(media_root, cut, links_into), timeout_s, CHILD, wish))


def normalise_still(
    image: str, media_root: Path, store: Path, budget: Stills, timeout_s: float = 300, links_into: Sequence[Path] = ()
) -> Still:
    """The picture made of one image, found in the store by the image's content, or made.

    Raises:
        ClipError: the image cannot be used.
    """
    wish = {"budget": asdict(budget), "store": str(store.resolve())}
    return Still(**ask_child(clip_path(media_root, image, links_into), timeout_s, STILLS_CHILD, wish))


def write_manifest(
    folder: Path, budget: Budget, clips: int, stills: Stills | None = None, poses: Mapping[str, int] | None = None
) -> None:
    """Note what the clips and images of a run's data folder were made with, and how many clips have pose files.

    Args:
        clips: their number, images included.
    """
    record: dict[str, Any] = {"version": VERSION, "budget": asdict(budget), "clips": clips}
    if stills is not None:
        record["images"] = asdict(stills)
    write_json(folder / "media.json", record | ({"poses": dict(poses)} if poses is not None else {}))


def require_budget(folder: Path, budget: Budget, stills: Stills | None = None) -> None:
    """Refuse clips and images that were made with another budget, or with an unknown one.

    Raises:
        MediaError: naming both budgets.
    """
    path = folder / "media.json"
    if not path.exists():
        raise MediaError(f"{path} is missing: the media budget of the clips is unknown")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        made = budget_from(record["budget"])
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{path} was cut or edited, and cannot be read ({error})") from error
    if made != budget or record["version"] != VERSION:
        raise MediaError(
            f"the clips of {folder} were made with another media budget:\n  made with: {made}\n  asked for: {budget}"
        )
    pictures = Stills(**record["images"]) if "images" in record else None
    if pictures != stills:
        raise MediaError(
            f"the images of {folder} were made with another media budget:\n  made with: {pictures or 'none'}\n  "
            f"asked for: {stills or 'none'}"
        )

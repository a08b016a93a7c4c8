"""The store of normalised clips and images: each named by its source's content and the budget, and made once."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.files import write_json
from data_tools.media.budget import VERSION, Budget, MediaError, Stills
from data_tools.media.cache import Progress, VideoCache, each_video
from data_tools.media.child import ClipError, ask_child, clip_path
from data_tools.media.normalise import Clip
from data_tools.media.parallel import ALL_CORES, Map
from data_tools.media.pictures import source_of
from data_tools.media.stills import Still
from data_tools.sample import Cut

# A part of a video, or an image, in a budget: what one clip, or one picture, is made of.
Wish = tuple[Cut, Budget | Stills]
Medium = Clip | Still


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
    kind: type[Medium] = Still if isinstance(budget, Stills) else Clip
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
        usable=lambda answer: isinstance(answer, ClipError) or (store / path_of(answer)).exists(),
    )


def path_of(made: Medium) -> str:
    """Where a clip or a picture lies, under the store."""
    return made.image if isinstance(made, Still) else made.video


def moved(made: Medium, folder: str) -> Medium:
    """The same, with a path that begins with `folder`."""
    path = f"{folder}/{path_of(made)}"
    return replace(made, image=path) if isinstance(made, Still) else replace(made, video=path)


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
    cut: Cut,
    media_root: Path,
    store: Path,
    budget: Budget,
    timeout_s: float = 300,
    links_into: Sequence[Path] = (),
) -> Clip:
    """The clip of one video or part of one, found in the store by the video's content, or made.

    Raises:
        ClipError: the video cannot be used.
    """
    module = ("-P", "-m", "data_tools.media.normalise")
    command = (sys.executable, *module, json.dumps(asdict(budget)), str(store.resolve()))
    part = {"start": cut.start, "end": cut.end, "fps": cut.fps}
    return Clip(**ask_child(source_of(media_root, cut, links_into), timeout_s, command, part))


def normalise_still(
    image: str,
    media_root: Path,
    store: Path,
    budget: Stills,
    timeout_s: float = 300,
    links_into: Sequence[Path] = (),
) -> Still:
    """The picture made of one image, found in the store by the image's content, or made.

    Raises:
        ClipError: the image cannot be used.
    """
    module = ("-P", "-m", "data_tools.media.stills")
    command = (sys.executable, *module, json.dumps(asdict(budget)), str(store.resolve()))
    return Still(**ask_child(clip_path(media_root, image, links_into), timeout_s, command))


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
        made = Budget(**record["budget"])
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

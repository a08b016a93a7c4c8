"""What earlier runs found out about video files, kept as lines that any number of processes append to."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from data_tools.files import append_line, repair_last_line
from data_tools.media.child import ClipError
from data_tools.media.parallel import Map
from data_tools.media.pictures import pictures_in
from data_tools.sample import Cut

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Progress = Callable[[int, int], None]
Facts = TypeVar("Facts", bound="DataclassInstance")


class VideoCache(Generic[Facts]):
    """Facts, or the fault, of each video or part of one; a file of another size or time counts as a new one.

    Args:
        kind: class of the facts.
        made_with: what the facts depend on besides the file; lines made with anything else are left alone.
    """

    def __init__(self, path: Path, media_root: Path, kind: type[Facts], **made_with: Any) -> None:
        self._path, self._root, self._kind, self._made_with = path, media_root.resolve(), kind, made_with
        self._name = kind.__name__.lower()
        self._known: dict[Cut, tuple[list[int] | None, Facts | ClipError]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_last_line(path)
        with path.open("ab+") as lines:
            lines.seek(0)
            for line in lines:
                self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except ValueError:  # left by a killed writer
            return
        if "source" in record and all(record.get(key) == value for key, value in self._made_with.items()):
            answer = self._kind(**record[self._name]) if self._name in record else ClipError(*record["fault"])
            cut = Cut(record["source"], record.get("start"), record.get("end"), record.get("fps"))
            self._known[cut] = record["stamp"], answer

    def find(self, cut: Cut) -> Facts | ClipError | None:
        key = cut._replace(video=str(self._root / cut.video), frames=())
        stamp, answer = self._known.get(key, (None, None))
        return answer if answer is not None and stamp == self._stamp(cut) else None

    def add(self, cut: Cut, answer: Facts | ClipError) -> None:
        """Remember an answer, except a fault that may be due to a busy machine, or to what a command names."""
        record = {"source": str(self._root / cut.video), "stamp": self._stamp(cut), **self._made_with}
        part = {"start": cut.start, "end": cut.end, "fps": cut.fps}
        record |= {name: value for name, value in part.items() if value is not None}
        if not isinstance(answer, ClipError):
            append_line(self._path, record | {self._name: asdict(answer)})
        elif answer.reason not in ("timeout", "crash", "outside"):
            append_line(self._path, record | {"fault": [answer.reason, answer.message]})

    def _stamp(self, cut: Cut) -> list[int] | None:
        """Size and time of the file, by which a change is noticed; of pictures, their sum and the latest.

        None where there is no file.
        """
        path = self._root / cut.video
        try:
            files = [self._root / name for name in cut.frames] or (pictures_in(path) if path.is_dir() else [path])
            known = [file.stat() for file in files]
        except OSError:
            return None
        return [sum(one.st_size for one in known), max((one.st_mtime_ns for one in known), default=0)]


def each_video(
    cuts: Sequence[Cut],
    work: Callable[[Cut], Facts | ClipError],
    cache: VideoCache[Facts],
    each: Map,
    progress: Progress,
    usable: Callable[[Facts | ClipError], bool] = lambda answer: True,
) -> Iterator[tuple[Cut, Facts | ClipError]]:
    """Each cut with its facts or its fault: first those that the cache has, then `work(cut)` of the others.

    Args:
        progress: called with the number of videos that are done, and their total.
        usable: whether an answer of the cache still holds.
    """
    missing, done = [], 0
    for cut in cuts:
        answer = cache.find(cut)
        if answer is None or not usable(answer):
            missing.append(cut)
            continue
        yield cut, answer
        progress(done := done + 1, len(cuts))
    for cut, answer in each(work, missing):
        cache.add(cut, answer)
        yield cut, answer
        progress(done := done + 1, len(cuts))

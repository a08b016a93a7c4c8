"""Clips that are in more than one split: a measurement on a clip that was trained on says nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_tools.sample import Cut, Sample
from rewards.errors import UserError

# SFT and RL may share clips: CamReasoner's RL set holds the questions that its chains were made for.
RANKS: Mapping[str, int] = {"sft": 0, "rl": 0, "val": 1, "test": 2}
_EVALUATED = {1: "val", 2: "test"}
Uses = Counter[tuple[str, str]]  # (split that uses it, video) -> samples of a file, in the order of the file


class SplitError(UserError):
    """Splits that must not be used together; the message names them and what to do."""


class Splits:
    """Remembers the clips of every split, by path and, where it is known, by content."""

    def __init__(self) -> None:
        self._images: set[str] = set()
        self._videos: dict[str, Cut] = {}
        self._ranks: dict[str | bytes, int] = {}  # video or image, or hash of its content -> highest rank that uses it
        self._named: dict[bytes, str] = {}  # hash -> a video or image of that content and rank
        self._questions: dict[str, set[int]] = {"val": set(), "test": set()}

    def add(self, sample: Sample) -> None:
        rank = RANKS[sample.split]
        for cut in sample.cuts:
            self._ranks[cut.video] = max(rank, self._ranks.get(cut.video, rank))
            if sample.images:
                self._images.add(cut.video)
            else:
                self._videos.setdefault(cut.video, cut._replace(start=None, end=None))
        if sample.split in self._questions:
            spans = tuple(map(tuple, sample.spans))
            self._questions[sample.split].add(hash((sample.shown, sample.question, sample.answer_text, spans)))

    def add_content(self, video: str, sha256: bytes) -> None:
        """To be called for each video and image once all samples have been added."""
        rank = self._ranks[video]
        if rank > self._ranks.get(sha256, -1):
            self._ranks[sha256], self._named[sha256] = rank, video

    @property
    def videos(self) -> list[Cut]:
        """Each video once and whole, in the order added."""
        return list(self._videos.values())

    @property
    def images(self) -> list[str]:
        """Each image once."""
        return sorted(self._images)

    def leak(self, sample: Sample, name: str, sha256: bytes | None = None) -> str | None:
        """The split that a clip or image of the sample is evaluated in, where the sample itself comes before it.

        With the name that it has there, where that is another one.
        """
        own, rank = self._ranks[name], 0 if sha256 is None else self._ranks.get(sha256, 0)
        if max(own, rank) <= RANKS[sample.split]:
            return None
        alias = f", as {self._named[sha256]}" if sha256 is not None and rank > own else ""
        return _EVALUATED[max(own, rank)] + alias

    def refuse_equal(self) -> None:
        """Refuse a validation set whose questions are those of the test set (as VideoChat-R1's Charades files are).

        Raises:
            SplitError: with the number of questions.
        """
        val, test = self._questions["val"], self._questions["test"]
        if val and val <= test:
            raise SplitError(
                f"all {len(val)} questions of the validation set are in the test set: to select on it is to select "
                "on the test. Hold out a part of the training set instead"
            )


def require_use(file: Path, sample: Sample, split: str) -> None:
    """Refuse a sample that says it is for evaluation where another split trains, or selects, on it.

    Raises:
        SplitError: naming file, record and field.
    """
    if RANKS[sample.split] > RANKS[split]:
        raise SplitError(
            f"{file}: record {sample.id!r}: split: is {sample.split!r}, and data.files.{split} gives it to {split}: "
            "give that another file, or write the samples' split anew"
        )


def refuse_leaks(files: Iterable[Uses], names: Mapping[str, str] | None = None) -> None:
    """Refuse samples whose clips are evaluated elsewhere.

    Args:
        files: which clips the samples of each file show.
        names: video -> a name by its content; videos that are not in it are left out. None compares paths.

    Raises:
        SplitError: naming the first such clip, and how many samples of its file show such clips.
    """
    named = [
        [(split, video if names is None else names[video], count) for (split, video), count in uses.items()
         if names is None or video in names]
        for uses in files
    ]  # fmt: skip
    ranks: dict[str, int] = {}
    for uses in named:
        for split, name, _ in uses:
            ranks[name] = max(RANKS[split], ranks.get(name, 0))
    for uses in named:
        leaks = [(split, name, count) for split, name, count in uses if ranks[name] > RANKS[split]]
        if leaks:
            split, name, _ = leaks[0]
            raise SplitError(
                f"{sum(count for *_, count in leaks)} samples of {split} show clips of {_EVALUATED[ranks[name]]}, "
                f"{name} first; python -m data_tools.check with all splits writes files without them"
            )

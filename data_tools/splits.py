"""Clips that stand in more than one split: what is measured on a clip that was trained on says nothing."""

from collections.abc import Iterable, Mapping

from data_tools.sample import Sample

# SFT and RL may share clips: CamReasoner's RL set holds the questions that its chains were made for.
RANKS: Mapping[str, int] = {"sft": 0, "rl": 0, "val": 1, "test": 2}
_EVALUATED = {1: "val", 2: "test"}


class SplitError(ValueError):
    """Splits that must not be used together; the message names them and what to do."""


class Splits:
    """Remembers the clips of every split, by path and, where it is known, by content."""

    def __init__(self) -> None:
        self._ranks: dict[str | bytes, int] = {}  # video, or hash of its content -> highest rank that uses it
        self._questions: dict[str, set[int]] = {"val": set(), "test": set()}

    def add(self, sample: Sample) -> None:
        rank = RANKS[sample.split]
        self._ranks[sample.video] = max(rank, self._ranks.get(sample.video, rank))
        if sample.split in self._questions:
            spans = tuple(map(tuple, sample.spans))
            self._questions[sample.split].add(hash((sample.video, sample.question, sample.answer_text, spans)))

    def add_content(self, video: str, sha256: bytes) -> None:
        """To be called for each video once all samples have been added."""
        rank = self._ranks[video]
        self._ranks[sha256] = max(rank, self._ranks.get(sha256, rank))

    @property
    def videos(self) -> list[str]:
        """Each video once, in the order added."""
        return [key for key in self._ranks if isinstance(key, str)]

    def leak(self, sample: Sample, sha256: bytes | None = None) -> str | None:
        """The split that the sample's clip is evaluated in, where the sample itself comes before it."""
        rank = max(self._ranks[sample.video], self._ranks.get(sha256, 0))
        return _EVALUATED[rank] if rank > RANKS[sample.split] else None

    def refuse_equal(self) -> None:
        """Refuse a validation set whose questions are those of the test set (as VideoChat-R1's Charades files are).

        Raises:
            SplitError: with the number of questions.
        """
        val, test = self._questions["val"], self._questions["test"]
        if val and val <= test:
            raise SplitError(
                f"all {len(val)} questions of the validation set stand in the test set: to select on it is to select "
                "on the test. Hold out a part of the training set instead"
            )


def refuse_leaks(samples: Iterable[Sample], splits: Splits) -> None:
    """Refuse samples whose clips are evaluated elsewhere.

    Raises:
        SplitError: naming the first such clip, and how many samples there are.
    """
    leaks = [(sample, found) for sample in samples if (found := splits.leak(sample))]
    if leaks:
        sample, found = leaks[0]
        raise SplitError(
            f"{len(leaks)} samples of {sample.split} show clips of {found}, {sample.video} first; "
            "python -m data_tools.check with all splits writes files without them"
        )

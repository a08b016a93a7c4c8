"""The samples of a split that a run takes of its label files: those with questions and chains that engines can take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.chains import Chains, check_chain, turned
from data_tools.media.budget import Budget
from data_tools.media.store import Medium
from data_tools.prompt import Form
from data_tools.quarantine import Rejected
from data_tools.sample import FieldError, Sample, SampleError, read_samples
from data_tools.sources import files_of, named, names_of, read_source, shuffle_options
from data_tools.tokens import Limits, Tokenizer, check_question, timed


@dataclass(frozen=True)
class LabelFile:
    """JSON Lines of samples, or a published file.

    Attributes:
        source: name of the published file's reader; None for samples.
        folder: where the published file's videos lie under the media root.
        shuffle: seed of the order of its options; None keeps the published order.
        one_per_video: only the first valid record about each video is taken.
        budget: of its clips; None: the run's.
        root: the media root, which absolute paths of the published file may name.
    """

    path: Path
    source: str | None = None
    folder: str = ""
    shuffle: int | None = None
    one_per_video: bool = False
    budget: Budget | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Wanted:
    """What is taken of the label files, and in which form.

    Attributes:
        tasks: split -> tasks that are taken; all where it has none.
        chains: see `data_tools.chains.turned`.
        limits: split -> how long its samples may be.
        tokenizer: the model's, where it is at hand; only with it lengths are known.
        images: that a sample may show; 0: only samples about videos are taken.
    """

    form: Form
    tasks: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    chains: Chains | None = None
    limits: Limits = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    images: int = 0

    def takes(self, split: str, sample: Sample) -> bool:
        tasks = self.tasks.get(split)
        return tasks is None or sample.task in tasks

    def turned(self, sample: Sample) -> Sample:
        """An SFT sample with its chain in the form that is asked for.

        Raises:
            FieldError: there is none.
        """
        return turned(sample, self.form.schema_of(sample.task), self.chains)

    def excess(self, split: str, sample: Sample, shown: Sequence[Medium], side: int) -> FieldError | None:
        """Why a sample with its clip or images certainly does not fit the limit of its split."""
        if split not in self.limits or self.tokenizer is None:
            return None
        return self.limits[split].excess(sample, shown, self.form, side, self.tokenizer)


def read_split(
    files: Sequence[LabelFile], split: str, quarantine: Callable[[Rejected], object] = lambda rejected: None
) -> Iterator[Sample]:
    """The samples of a split's files, in order.

    Args:
        quarantine: called with each record of a published file that is not a valid sample.

    Raises:
        SampleError: a bad record in a file of samples, a duplicate id, or no samples.
    """
    return (sample for _, sample in _located(files, split, quarantine))


def _located(
    files: Sequence[LabelFile], split: str, quarantine: Callable[[Rejected], object]
) -> Iterator[tuple[LabelFile, Sample]]:
    """Each sample with its file."""
    ids: set[str] = set()
    first: list[Rejected] = []

    def left_out(rejected: Rejected) -> None:
        if not first:
            first.append(rejected)
        quarantine(rejected)

    names = names_of([one for file in files if file.source for one in files_of(file.path)])
    for file in files:
        if file.source is None:
            yield from ((file, sample) for sample in read_samples(file.path))
            continue
        shown: set[str] = set()
        for sample in read_source(named(file.source), file.path, split, left_out, file.folder, names, file.root):
            if sample.id in ids:
                raise SampleError(f"{file.path}: id: duplicate id {sample.id!r} among the files of {split}")
            ids.add(sample.id)
            if file.one_per_video and sample.shown in shown:
                continue
            shown.add(sample.shown)
            yield file, sample if file.shuffle is None else shuffle_options(sample, file.shuffle)
    if not ids and any(file.source for file in files):
        why = "".join(f"; record {one.record} is left out, {one.field}: {one.reason}" for one in first)
        raise SampleError(f"{', '.join(str(file.path) for file in files)}: holds no samples{why}")


def read_wanted(
    files: Sequence[LabelFile],
    split: str,
    wanted: Wanted,
    quarantine: Callable[[Rejected], object] = lambda rejected: None,
) -> Iterator[tuple[LabelFile, Sample]]:
    """Those samples of a split's files that a run takes, each with its file, chains in the form that its reward reads.

    Args:
        quarantine: called with each record that is not a valid sample, or whose question or chain no engine can take.

    Raises:
        SampleError: see `read_split`; a sample that has nothing for a placeholder of the prompt, or no sample is taken.
        PromptError: a task without a text.
    """
    taken = False
    for file, sample in _located(files, split, quarantine):
        if not wanted.takes(split, sample):
            continue
        taken = True
        try:
            wanted.form.messages(timed(sample))
        except FieldError as error:
            raise SampleError(f"{file.path}: record {sample.id!r}: {error}") from error
        try:
            check_images(sample, wanted.images)
            check_question(sample, wanted.form, wanted.tokenizer)
            if split == "sft":
                sample = _with_right_chain(sample, wanted)
        except FieldError as fault:
            quarantine(Rejected(str(file.path), sample.id, fault.field, fault.reason))
            continue
        yield file, sample
    if not taken:
        named = ", ".join(str(file.path) for file in files)
        raise SampleError(f"{named}: none of its samples has a task of data.tasks.{split}={wanted.tasks.get(split)}")


def check_images(sample: Sample, most: int) -> None:
    """Refuse a sample of more images than the media budget takes.

    Raises:
        FieldError: with the key that raises it.
    """
    if len(sample.images) > most:
        takes = f"takes {most}: raise media.images.most" if most else "takes none: give media.images"
        raise FieldError("images", f"shows {len(sample.images)}, and the media budget {takes}")


def _with_right_chain(sample: Sample, wanted: Wanted) -> Sample:
    """The sample with its chain in the form that is asked for.

    Raises:
        FieldError: of the field `chain`, there is none, or it teaches another form or answer.
    """
    try:
        sample = wanted.turned(sample)
        check_chain(sample, wanted.form.schema_of(sample.task), wanted.tokenizer)
    except FieldError as fault:
        raise FieldError("chain", fault.reason) from fault
    return sample

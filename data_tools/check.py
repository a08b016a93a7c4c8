"""Check samples, and their videos and images, before anything is made of them.

python -m data_tools.check SAMPLES.jsonl... media_root=VIDEOS out=FOLDER

Writes the valid records to `clean.jsonl`, every other one with its reason to `quarantine.jsonl`, and statistics to
`index.html`; records read = records kept + records quarantined, always. Decoding takes nearly all of the time. It runs
on all cores (over Ray: launch/engines/ray/check.py), and its results are kept: a second run decodes new videos only.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from data_tools.chains import check_chain
from data_tools.check_page import EDGES, LISTED, LeftOut, left_out, write_page
from data_tools.cli import Arguments, run_command
from data_tools.files import read_lines, require_lines, whole_file
from data_tools.media.cache import Progress
from data_tools.media.child import ClipError
from data_tools.media.parallel import ALL_CORES, Map, Threads
from data_tools.media.probe import ClipInfo, probe_all
from data_tools.media.stills import StillInfo
from data_tools.prompt import Form
from data_tools.quarantine import Quarantine, Rejected
from data_tools.sample import BY_OPTION, Cut, FieldError, Sample, parse_sample
from data_tools.splits import Splits
from data_tools.tokens import Tokenizer, check_question, tokenizer_of
from rewards.errors import UserError
from rewards.tasks import TaskError, check_sample

LATE_S = 0.1  # seconds that a moment may end after its clip: labels are rounded
TEMPLATES = 20_000  # different question templates that are counted one by one; a set of free questions has more


class CheckError(UserError):
    """What keeps the check from running; the message names the file or setting."""


class CheckArguments(Arguments):
    files: list[Path] = Field(description="JSON Lines of samples, one file or several splits")
    out: Path = Field(description="folder of the results")
    media_root: Path | None = Field(None, description="folder of the videos; null checks the labels alone")
    links_into: list[Path] = Field([], description="folders that symbolic links in media_root may lead into")
    workers: PositiveInt | None = Field(None, description="videos decoded at once; null takes one per core")
    timeout: PositiveFloat = Field(20, description="seconds per video")
    reward: dict[str, Any] = Field(
        {"name": "camreasoner"},
        description="whose form chains must have, e.g. reward=videochat_r1 reward.prompt=direct",
    )
    model: str | None = Field(None, description="folder or hub id whose tokenizer names the special tokens of texts")


@dataclass
class Findings:
    """What the check found; everything is counted, nothing is estimated."""

    files: dict[str, int] = field(default_factory=Counter)
    kept: int = 0
    reasons: dict[tuple[str, str], int] = field(default_factory=Counter)  # field, reason without its particulars
    notes: dict[str, int] = field(default_factory=Counter)  # worth knowing, but not a reason to leave a record out
    left_out: dict[str, int] = field(default_factory=Counter)  # split -> quarantined records
    listed: list[LeftOut] = field(default_factory=list)  # the first of them
    splits: dict[tuple[str, str], int] = field(default_factory=Counter)  # split, task
    answers: dict[tuple[str, str], dict[str, int]] = field(default_factory=lambda: defaultdict(Counter))  # -> text
    letters: dict[tuple[str, str], dict[str, int]] = field(default_factory=lambda: defaultdict(Counter))  # -> letter
    templates: dict[str, dict[str, int]] = field(default_factory=dict)  # template -> answer
    lengths: dict[str, dict[float, int]] = field(default_factory=lambda: defaultdict(Counter))  # quantity -> lower edge
    videos: int = 0
    images: int = 0
    broken: int = 0
    formats: dict[str, int] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        return sum(self.files.values())

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    @property
    def by_split(self) -> dict[str, tuple[int, int]]:
        """Records kept and quarantined of each split; "" stands for records that name none."""
        kept: Counter[str] = Counter()
        for (split, _), count in self.splits.items():
            kept[split] += count
        return {split: (kept[split], self.left_out.get(split, 0)) for split in (*kept, *self.left_out)}

    def quarantine(self, left: LeftOut) -> None:
        self.reasons[left.rejected.field, _without_particulars(left.rejected.reason)] += 1
        self.left_out[left.split] += 1
        if len(self.listed) < LISTED:
            self.listed.append(left)

    def measure(self, quantity: str, value: float) -> None:
        self.lengths[quantity][max(edge for edge in EDGES[quantity] if edge <= value)] += 1


def check_files(
    files: Sequence[Path],
    out: Path,
    media_root: Path | None = None,
    each: Map = ALL_CORES,
    timeout_s: float = 20,
    progress: Progress = lambda done, total: None,
    reward: Mapping[str, Any] = CheckArguments.model_fields["reward"].default,
    model: str | None = None,
    links_into: Sequence[Path] = (),
) -> Findings:
    """Write `clean.jsonl` (`clean.<name>.jsonl` for each of several files), `quarantine.jsonl` and `index.html`.

    Per record, only its id, its video's name and a number for its question stay in memory; all else is streamed.

    Args:
        media_root: folder of the videos; None checks the labels alone.
        each: decodes the videos; over a cluster, all nodes must see the same files.
        timeout_s: per video.
        progress: called with the number of videos decoded, and their total.
        reward: `{"name": ..., **settings}`, by whose form and rules chains are checked.
        model: folder or hub id whose tokenizer names the special tokens; None: all that look like chat templates'.
        links_into: folders that symbolic links in the media root may lead into, besides itself.

    Raises:
        CheckError: two files of one name, a model without tokenizer, or no record at all.
        SplitError: the validation set is the test set.
    """
    if len({path.stem for path in files}) < len(files):
        raise CheckError("two of the files have the same name; check them one by one, or rename one")
    for path in files:
        require_lines(path)
    if missing := [path for path in files if not path.is_file()]:
        raise CheckError(f"{missing[0]}: no such file")
    if model is not None and tokenizer_of(model) is None:
        raise CheckError(f"model={model}: its tokenizer.json is neither in a folder of that name nor downloaded")
    if media_root is not None and not media_root.is_dir():
        raise CheckError(f"{media_root}: no such folder of videos")
    splits = Splits()
    for path in files:
        for _, line in read_lines(path):
            try:
                splits.add(parse_sample(line))
            except FieldError:
                continue  # the second reading puts it into the quarantine
    splits.refuse_equal()

    found, clips = Findings(), Clips()
    if media_root is not None:
        how = each, timeout_s, progress, links_into
        for video, answer in probe_all(ClipInfo, splits.videos, media_root, out / "probes.jsonl", *how):
            clips.add(video, answer, found)
        images = [Cut(image) for image in splits.images]
        for image, still in probe_all(StillInfo, images, media_root, out / "images.jsonl", *how):
            clips.add_image(image, still, found)
        for video, sha256 in clips.sha256.items():
            splits.add_content(video, sha256)
    _write_records(files, out, splits, clips, found, Form(reward=dict(reward)), tokenizer_of(model))
    write_page(out / "index.html", found, media_root, [out / _clean(path, files) for path in files])
    return found


def _write_records(
    files: Sequence[Path],
    out: Path,
    splits: Splits,
    clips: "Clips",
    found: Findings,
    form: Form,
    tokenizer: Tokenizer | None,
) -> None:
    """Write each record to the clean file of its own file, or to the quarantine."""
    with ExitStack() as stack:
        quarantine = Quarantine(stack.enter_context(whole_file(out / "quarantine.jsonl")))
        questions: dict[int, int] = {}
        for path in files:
            clean = stack.enter_context(whole_file(out / _clean(path, files), "wb"))
            ids: set[str] = set()
            for number, line in read_lines(path):
                found.files[str(path)] += 1
                try:
                    sample = _valid(line, ids, splits, clips, form, tokenizer)
                except FieldError as fault:
                    left = left_out(Rejected(str(path), str(number), fault.field, fault.reason), line)
                    found.quarantine(left)
                    quarantine.add(left.rejected)
                else:
                    clean.write(line + b"\n")
                    _count(sample, found, questions)
                    if clips.end_before(sample):
                        found.notes["a moment that ends after its clip"] += 1
        if not found.records:
            raise CheckError(f"{', '.join(map(str, files))}: no records")


def _clean(path: Path, files: Sequence[Path]) -> str:
    return "clean.jsonl" if len(files) == 1 else f"clean.{path.stem}.jsonl"


def _valid(
    line: bytes, ids: set[str], splits: Splits, clips: "Clips", form: Form, tokenizer: Tokenizer | None
) -> Sample:
    """The sample of a line.

    Raises:
        FieldError: why it belongs into the quarantine.
    """
    sample = parse_sample(line)
    if sample.id in ids:
        raise FieldError("id", f"duplicate id {sample.id!r}")
    ids.add(sample.id)
    check_question(sample, form, tokenizer)
    try:
        check_sample(sample.model_dump())
    except TaskError as error:
        raise FieldError("answer", str(error).removeprefix(f"sample {sample.id!r}: ")) from error
    if sample.chain is not None:
        check_chain(sample, form.schema_of(sample.task), tokenizer)
    if fault := next((clips.faults[name] for name in sample.media if name in clips.faults), None):
        raise FieldError(sample.shows, fault)
    if (seconds := clips.seconds_of(sample)) and (first := sample.start or 0.0) >= seconds:
        raise FieldError("start", f"{first:g} s is after the end of the video, at {seconds:.2f} s")
    if seconds and any(first + start >= seconds for start, _ in sample.spans):
        raise FieldError("spans", f"one starts after the end of the clip, at {seconds - first:.2f} s")
    for name in sample.media:
        if split := splits.leak(sample, name, clips.sha256.get(name)):
            what = "image" if sample.images else "clip"
            raise FieldError("split", f"leak: the {what} {name} is also in {split}")
    return sample


def _count(sample: Sample, found: Findings, questions: dict[int, int]) -> None:
    found.kept += 1
    found.splits[sample.split, sample.task] += 1
    answer = sample.answer_text if sample.task in BY_OPTION else ""
    if answer:
        found.letters[sample.split, sample.task][sample.answer] += 1
        counts = found.answers[sample.split, sample.task]
        counts[answer if answer in counts or len(counts) < 50 else "(others)"] += 1
    template = _template(sample.question)
    if template not in found.templates and len(found.templates) >= TEMPLATES:
        template = "(others)"
    counts = found.templates.setdefault(template, Counter())
    counts[answer if answer in counts or len(counts) < 10 else "(others)"] += 1
    if len(set(sample.options)) < len(sample.options):
        found.notes["a question with the same option twice"] += 1
    found.measure("words per question", len(sample.question.split()))
    if sample.chain is None and sample.split == "sft":
        found.notes["an SFT sample without a chain"] += 1
    if sample.chain is not None:
        found.measure("words per chain", len(sample.chain.split()))
    if sample.images:
        found.measure("images per sample", len(sample.images))
    question = hash((sample.shown, sample.question, sample.split, tuple(sorted(sample.options))))
    gold = hash((sample.answer_text, str(sample.spans), str(sample.boxes)))
    if question in questions:
        found.notes["a repeated question" + ("" if questions[question] == gold else ", with another answer")] += 1
    questions.setdefault(question, gold)


_PARTICULARS = ((re.compile(r'"[^"]*"|\'[^\']*\'|\[[^\]]*\]'), "…"), (re.compile(r"\d+(?:\.\d+)?"), "#"))


def _template(question: str) -> str:
    for pattern, mark in _PARTICULARS:
        question = pattern.sub(mark, question)
    return question[:200]


def _without_particulars(reason: str) -> str:
    """The kind of a reason: up to the first colon, without names and numbers."""
    return _template(reason.partition(": ")[0])


# ---------------------------------------------------------------- videos


class Clips:
    """What was found out about each video and image, as far as records depend on it."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.pictures: dict[str, int] = {}  # of videos that are given as their frames
        self.sha256: dict[str, bytes] = {}
        self._contents: set[bytes] = set()

    def add(self, video: str, answer: ClipInfo | ClipError, found: Findings) -> None:
        found.videos += 1
        if isinstance(answer, ClipError):
            found.broken += 1
            self.faults[video] = str(answer)
            return
        sha256 = bytes.fromhex(answer.sha256)
        self.sha256[video] = sha256
        if answer.duration is None or answer.fps is None:
            self.pictures[video] = answer.frames
            found.notes["a video given as its frames"] += 1
        else:
            self.seconds[video] = answer.duration
            found.measure("seconds", answer.duration)
            found.measure("frames per second", answer.fps)
        if sha256 in self._contents:
            found.notes["a copy of another video"] += 1
        self._contents.add(sha256)
        found.measure("frames", answer.frames)
        found.measure("shorter side, pixels", min(answer.width, answer.height))
        found.formats[f"{answer.codec}, {answer.pixel_format}"] += 1
        for note, applies in (
            ("a video of variable frame rate", answer.variable_frame_rate),
            ("a video that its header turns or mirrors", answer.rotation != 0 or answer.mirrored),
            ("a portrait video", answer.height > answer.width),
        ):
            if applies:
                found.notes[note] += 1

    def seconds_of(self, sample: Sample) -> float | None:
        """Length of the sample's video, where it is known: pictures whose record names no rate get the budget's."""
        if sample.fps is not None and (count := self.pictures.get(sample.shown)):
            return count / sample.fps
        return self.seconds.get(sample.shown)

    def end_before(self, sample: Sample) -> bool:
        """Whether a moment of a sample ends after its clip; the labels tell its length where no video is decoded."""
        seconds = self.seconds_of(sample) or sample.duration
        return seconds is not None and any((sample.start or 0.0) + end > seconds + LATE_S for _, end in sample.spans)

    def add_image(self, image: str, answer: StillInfo | ClipError, found: Findings) -> None:
        found.images += 1
        if isinstance(answer, ClipError):
            found.broken += 1
            self.faults[image] = str(answer)
            return
        self.sha256[image] = sha256 = bytes.fromhex(answer.sha256)
        if sha256 in self._contents:
            found.notes["a copy of another image"] += 1
        self._contents.add(sha256)
        found.measure("shorter side of an image, pixels", min(answer.width, answer.height))
        found.formats[answer.kind] += 1


def run_check(arguments: CheckArguments, each: Map) -> None:
    """Check the files with a progress bar, and print the counts."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from data_tools.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    files, out, root = arguments.files, arguments.out, arguments.media_root
    with Bars(*columns, console=console, transient=True, disable=root is None) as bars:
        task = bars.add_task("decoding videos", total=None)
        found = check_files(
            files,
            out,
            root,
            each,
            arguments.timeout,
            lambda done, total: bars.update(task, completed=done, total=total),
            arguments.reward,
            arguments.model,
            arguments.links_into,
        )
    console.print(f"{found.records} records = {found.kept} kept + {found.quarantined} quarantined", markup=False)
    for (name, reason), count in sorted(found.reasons.items(), key=lambda item: -item[1])[:10]:
        console.print(f"  {count:>7}  {name}: {reason}", markup=False)
    console.print(f"more in {out / 'index.html'}", markup=False)


def main(arguments: CheckArguments) -> None:
    run_check(arguments, Threads(arguments.workers))


if __name__ == "__main__":
    run_command(main, CheckArguments, __doc__)

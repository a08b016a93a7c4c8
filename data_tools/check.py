"""Check samples and their videos before anything is made of them.

`python -m data_tools.check SAMPLES.jsonl... --media-root VIDEOS --out FOLDER`

Writes what holds to `clean.jsonl`, every other record with its reason to `quarantine.jsonl`, and what there is to know
about the set to `index.html`; records read = records kept + records quarantined, always. Decoding is what takes time:
it runs on all cores, or over Ray, and its results are kept, so that a second run decodes what is new.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from data_tools.parallel import WorkerError, each
from data_tools.probe import ClipError, ClipInfo, clip_path, probe
from data_tools.sample import BY_OPTION, RecordError, Sample, parse_sample, read_lines
from data_tools.sources import Rejected
from data_tools.sources.source import PLACE_HOLDERS
from data_tools.splits import SplitError, Splits
from rewards.tasks import TaskError, check_sample

Progress = Callable[[int, int], None]
TEMPLATES = 20_000  # different question templates that are counted one by one; a set of free questions has more
EDGES: Mapping[str, tuple[float, ...]] = {
    "words per question": (0, 5, 10, 20, 40, 80, 160),
    "words per chain": (0, 25, 50, 100, 200, 400, 800),
    "seconds": (0, 1, 2, 5, 10, 30, 60, 300),
    "frames per second": (0, 5, 10, 20, 24, 25, 30, 31, 60),
    "frames": (0, 2, 16, 64, 256, 1024, 4096),
    "shorter side, pixels": (0, 64, 240, 360, 480, 720, 1080),
}


class CheckError(ValueError):
    """What keeps the check from running; the message names the file or setting."""


@dataclass
class Findings:
    """What the check found; everything is counted, nothing is sampled."""

    files: dict[str, int] = field(default_factory=Counter)
    kept: int = 0
    reasons: dict[tuple[str, str], int] = field(default_factory=Counter)  # field, reason without its particulars
    notes: dict[str, int] = field(default_factory=Counter)  # worth knowing, and no reason to leave a record out
    splits: dict[tuple[str, str], int] = field(default_factory=Counter)  # split, task
    answers: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(Counter))  # task -> text
    letters: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(Counter))  # task -> letter
    templates: dict[str, dict[str, int]] = field(default_factory=dict)  # template -> answer
    lengths: dict[str, dict[float, int]] = field(default_factory=lambda: defaultdict(Counter))  # quantity -> lower edge
    videos: int = 0
    broken: int = 0
    formats: dict[str, int] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        return sum(self.files.values())

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    def measure(self, quantity: str, value: float) -> None:
        self.lengths[quantity][max(edge for edge in EDGES[quantity] if edge <= value)] += 1


def check(
    files: Sequence[Path],
    out: Path,
    media_root: Path | None = None,
    workers: int | None = None,
    timeout_s: float = 20,
    ray: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Findings:
    """Write `clean.jsonl` (`clean.<name>.jsonl` for each of several files), `quarantine.jsonl` and `index.html`.

    What stays in memory per record is its id, its video's name and a number for its question; all else is streamed.

    Args:
        media_root: where the videos lie; None checks the labels alone.
        workers: videos decoded at once; None takes a core for each.
        timeout_s: per video.
        ray: decode over the Ray cluster at this address, which must see the same files ("auto": the one this machine
            belongs to, "local": one of its own).
        progress: called with the number of videos decoded, and their total.

    Raises:
        CheckError: files that cannot be told apart in the results, or no record at all.
        SplitError: the validation set is the test set.
    """
    if len({path.stem for path in files}) < len(files):
        raise CheckError("two of the files have the same name; check them one by one, or rename one")
    if media_root is not None and not media_root.is_dir():
        raise CheckError(f"{media_root}: no such folder of videos")
    splits = Splits()
    for path in files:
        for _, line in read_lines(path):
            try:
                splits.add(parse_sample(line))
            except RecordError:
                continue  # the second reading puts it into the quarantine
    splits.refuse_equal()

    out.mkdir(parents=True, exist_ok=True)
    found, clips = Findings(), Clips()
    if media_root is not None:
        videos = splits.videos
        for video, answer in _probed(videos, media_root, out / "probes.jsonl", workers, timeout_s, ray, progress):
            clips.add(video, answer, found)
        for video, sha256 in clips.sha256.items():
            splits.add_content(video, sha256)
    names = ["clean.jsonl"] if len(files) == 1 else [f"clean.{path.stem}.jsonl" for path in files]
    partial = {name: out / f"{name}.partial" for name in (*names, "quarantine.jsonl")}
    with ExitStack() as stack:
        quarantine = stack.enter_context(partial["quarantine.jsonl"].open("w", encoding="utf-8"))
        questions: dict[int, int] = {}
        for path, name in zip(files, names):
            clean = stack.enter_context(partial[name].open("wb"))
            ids: set[str] = set()
            for number, line in read_lines(path):
                found.files[str(path)] += 1
                try:
                    sample = _judged(line, ids, splits, clips)
                except RecordError as fault:
                    found.reasons[fault.field, _without_particulars(fault.reason)] += 1
                    quarantine.write(Rejected(str(path), str(number), fault.field, fault.reason).line())
                else:
                    clean.write(line + b"\n")
                    _count(sample, found, questions)
    if not found.records:
        raise CheckError(f"{', '.join(map(str, files))}: no record")
    _write_page(out / "index.html", found, media_root is not None)
    for name, path in partial.items():
        path.replace(out / name)
    return found


def _judged(line: bytes, ids: set[str], splits: Splits, clips: "Clips") -> Sample:
    sample = parse_sample(line)
    if sample.id in ids:
        raise RecordError("id", f"{sample.id!r} stands twice")
    ids.add(sample.id)
    for name, text in (("question", sample.question), *(("options", option) for option in sample.options)):
        if holder := next((holder for holder in PLACE_HOLDERS if holder in text), None):
            raise RecordError(name, f"holds {holder}, which engines replace by a clip")
    try:
        check_sample(sample.model_dump())
    except TaskError as error:
        raise RecordError("answer", str(error).removeprefix(f"sample {sample.id!r}: ")) from error
    if fault := clips.faults.get(sample.video):
        raise RecordError("video", fault)
    if (seconds := clips.seconds.get(sample.video)) and any(start >= seconds for start, _ in sample.spans):
        raise RecordError("spans", f"one starts after the end of the clip, at {seconds:.2f} s")
    if split := splits.leak(sample, clips.sha256.get(sample.video)):
        raise RecordError("split", f"leak: the clip {sample.video} is of {split}, too")
    return sample


def _count(sample: Sample, found: Findings, questions: dict[int, int]) -> None:
    found.kept += 1
    found.splits[sample.split, sample.task] += 1
    answer = sample.answer_text if sample.task in BY_OPTION else ""
    if answer:
        found.letters[sample.task][sample.answer] += 1
        counts = found.answers[sample.task]
        counts[answer if answer in counts or len(counts) < 50 else "(others)"] += 1
    template = _template(sample.question)
    if template not in found.templates and len(found.templates) >= TEMPLATES:
        template = "(others)"
    counts = found.templates.setdefault(template, Counter())
    counts[answer if answer in counts or len(counts) < 10 else "(others)"] += 1
    found.measure("words per question", len(sample.question.split()))
    if sample.chain is not None:
        found.measure("words per chain", len(sample.chain.split()))
    question = hash((sample.video, sample.question, sample.split, tuple(sorted(sample.options))))
    told = hash((sample.answer_text, str(sample.spans), str(sample.boxes)))
    if question in questions:
        same = questions[question] == told
        found.notes["a question that stands there before" + ("" if same else ", with another answer")] += 1
    questions.setdefault(question, told)


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
    """What was found out about each video, as far as records are judged by it."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.sha256: dict[str, bytes] = {}
        self._contents: set[bytes] = set()

    def add(self, video: str, answer: "ClipInfo | ClipError", found: Findings) -> None:
        found.videos += 1
        if isinstance(answer, ClipError):
            found.broken += 1
            self.faults[video] = str(answer)
            return
        sha256 = bytes.fromhex(answer.sha256)
        self.seconds[video], self.sha256[video] = answer.duration, sha256
        if sha256 in self._contents:
            found.notes["a video whose bytes another video has"] += 1
        self._contents.add(sha256)
        found.measure("seconds", answer.duration)
        found.measure("frames per second", answer.fps)
        found.measure("frames", answer.frames)
        found.measure("shorter side, pixels", min(answer.width, answer.height))
        found.formats[f"{answer.codec}, {answer.pixel_format}"] += 1
        for note, applies in (
            ("a video of variable frame rate", answer.variable_frame_rate),
            ("a video that asks to be rotated", answer.rotation != 0),
            ("a portrait video", answer.height > answer.width),
        ):
            if applies:
                found.notes[note] += 1


def _probed(
    videos: Sequence[str],
    media_root: Path,
    cache: Path,
    workers: int | None,
    timeout_s: float,
    ray: str | None,
    progress: Progress,
) -> Iterator[tuple[str, ClipInfo | ClipError]]:
    """Each video with what it holds or why it cannot be used, those first that an earlier run has decoded."""
    wanted = {video: _stamp(media_root, video) for video in videos}
    done = 0
    for video, stamp, answer in _cached(cache):
        if stamp is not None and wanted.get(video) == stamp:
            del wanted[video]
            yield video, answer
            progress(done := done + 1, len(videos))
    with cache.open("a", encoding="utf-8") as log:
        work = partial(_probe_one, media_root.resolve(), timeout_s)
        for video, answer in each(work, list(wanted), workers, ray):
            # A time limit or a crash may be the fault of a busy machine: asked again by the next run.
            if not (isinstance(answer, ClipError) and answer.reason in ("timeout", "crash")):
                log.write(json.dumps({"video": video, "stamp": wanted[video], **_as_json(answer)}) + "\n")
                log.flush()
            yield video, answer
            progress(done := done + 1, len(videos))


def _stamp(media_root: Path, video: str) -> list[int] | None:
    """Size and time of a file, by which a change is seen; None where there is none."""
    try:
        status = (media_root / video).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _cached(cache: Path) -> Iterator[tuple[str, list[int] | None, ClipInfo | ClipError]]:
    """What earlier runs wrote; the end of a line that one was killed over is cut off."""
    if not cache.exists():
        return
    with cache.open("r+b") as log:
        whole = 0
        for line in log:
            if not line.endswith(b"\n"):
                log.truncate(whole)
                return
            whole += len(line)
            record = json.loads(line)
            yield record["video"], record["stamp"], _from_json(record)


def _as_json(answer: ClipInfo | ClipError) -> dict[str, Any]:
    if isinstance(answer, ClipError):
        return {"fault": [answer.reason, answer.message]}
    return {"info": asdict(answer)}


def _from_json(record: Mapping[str, Any]) -> ClipInfo | ClipError:
    return ClipInfo(**record["info"]) if "info" in record else ClipError(*record["fault"])


def _probe_one(media_root: Path, timeout_s: float, video: str) -> ClipInfo | ClipError:
    try:
        return probe(clip_path(media_root, video), timeout_s)
    except ClipError as error:
        return error


# ---------------------------------------------------------------- the page


def _write_page(path: Path, found: Findings, with_videos: bool) -> None:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    top = sorted(found.templates.items(), key=lambda item: -sum(item[1].values()))
    page = environment.get_template("check.html.j2").render(
        found=found,
        with_videos=with_videos,
        templates=top[:25],
        more_templates=max(0, len(top) - 25),
        lengths={name: _bars(EDGES[name], counts) for name, counts in found.lengths.items()},
        by_count=lambda counts: sorted(counts.items(), key=lambda item: -item[1]),
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _bars(edges: Sequence[float], counts: Mapping[float, int]) -> list[tuple[str, int]]:
    """(range, count) of each bin from the first to the last that holds something."""
    names = [f"{low:g} – {high:g}" for low, high in pairwise(edges)] + [f"{edges[-1]:g} and more"]
    return [(name, counts.get(edge, 0)) for name, edge in zip(names, edges) if min(counts) <= edge <= max(counts)]


def main(
    files: Annotated[list[Path], typer.Argument(metavar="SAMPLES.jsonl...", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder of the results.", file_okay=False)],
    media_root: Annotated[Path | None, typer.Option(help="Folder of the videos; without it labels alone.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Videos decoded at once; all cores by default.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds per video.")] = 20,
    ray: Annotated[str | None, typer.Option(help="Decode over Ray: auto, local, or an address.")] = None,
) -> None:
    """Check samples and their videos: what holds, what does not and why, on one page."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Bars(*columns, console=console, transient=True, disable=media_root is None) as bars:
            task = bars.add_task("decoding videos", total=None)
            found = check(
                files, out, media_root, workers, timeout, ray, lambda d, n: bars.update(task, completed=d, total=n)
            )
    except (CheckError, SplitError, WorkerError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    console.print(f"{found.records} records = {found.kept} kept + {found.quarantined} quarantined", markup=False)
    for (name, reason), count in sorted(found.reasons.items(), key=lambda item: -item[1])[:10]:
        console.print(f"  {count:>7}  {name}: {reason}", markup=False)
    console.print(f"{out / 'index.html'} tells the rest", markup=False)


if __name__ == "__main__":
    typer.run(main)

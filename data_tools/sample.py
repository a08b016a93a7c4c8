"""The one typed record that every source is read into and every engine file is written from."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticSerializationError

from data_tools.files import LONGEST_LINE, JsonError, parse_json, read_lines, require_lines, whole_file
from rewards.errors import SHORT, UserError
from rewards.motions import PRIMITIVES
from rewards.reading import half_width

Task = Literal[
    "binary",  # yes or no, as two options
    "choice",
    "numerical",
    "regression",
    "ocr",
    "open_ended",
    "math",
    "temporal_grounding",
    "spatial_grounding",
    "tracking",
    "grounded_qa",  # an option, and when the clip shows it
    "caption",
    "quality",  # an option that grades the clip
]
# The fields that a task needs; `number` is an answer that is one.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "binary": ("options",),
    "choice": ("options",),
    "grounded_qa": ("options", "spans"),
    "quality": ("options",),
    "numerical": ("number",),
    "regression": ("number",),
    "ocr": ("answer",),
    "open_ended": ("answer",),
    "math": ("answer",),
    "temporal_grounding": ("spans",),
    "spatial_grounding": ("boxes",),
    "tracking": ("boxes",),
    "caption": ("events",),
}
BY_OPTION = tuple(task for task, fields in NEEDS.items() if "options" in fields)
VIDEO, IMAGE = "<video>", "<image>"  # the placeholders that LLaMA-Factory and verl both replace by a clip, an image
PLACEHOLDERS = (VIDEO, IMAGE, "<audio>")  # an engine would look for a file for each of them
LETTERED = re.compile(r"[(（]?([A-ZＡ-Ｚ])[.):．：、）]\s*(.+)", re.DOTALL)  # "A. No", "(A) No", "Ａ、否"
OF_TRAINERS = {"messages", "conversations", "prompt", "problem", "query", "instruction"}  # keys of their records
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # endings of files that may be frames of a video


class SampleError(UserError):
    """A record that breaks the contract; the message names file, line and field."""


class FieldError(UserError):
    """What is wrong with one record, in whatever file: the field, and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class Cut(NamedTuple):
    """A video, or the part of it between two seconds; None: from its beginning, to its end. An image is one, too.

    `fps` is the rate of a video given as pictures; `frames` are those of a list of them, which `video` is a name for.

    Example:
        >>> str(Cut("a.mp4")), str(Cut("a.mp4", 1.5, 4.0))
        ('a.mp4', 'a.mp4 from 1.5 s to 4 s')
    """

    video: str
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    frames: tuple[str, ...] = ()

    @property
    def is_part(self) -> bool:
        """Whether it is less than the whole video."""
        return self.start is not None or self.end is not None

    def __str__(self) -> str:
        start = "" if self.start is None else f" from {self.start:g} s"
        return self.video + start + ("" if self.end is None else f" to {self.end:g} s")


class Sample(BaseModel):
    """One question about one clip, or about one or several images.

    Attributes:
        id: unique within its file.
        video: path of the clip, or of a folder of its frames, relative to the media root, with forward slashes; None
            where there are images or `frames`: paths of the pictures that are its frames, also given as a list `video`.
        fps: rate of the frames of a list or folder; None: that of the media budget.
        images: paths of the images, in the order of their placeholders (`IMAGE`) in question and options. Where there
            are no placeholders, all of them stand before the question.
        start, end: the part of the video that the clip is, in seconds; None: from its beginning, to its end. What else
            names seconds counts from `start`.
        question: text of the question, without options.
        options: option texts in the order shown; their letters are A, B, C ... Some published sets repeat one: where
            it is right, each of its letters is.
        answer: letter of the right option for the tasks `BY_OPTION`; the text or number asked for in the others; empty
            where spans, boxes or events are the answer.
        task: decides how the answer is scored, and which fields are needed (`NEEDS`).
        source: where the record comes from (a data set's name, or "rendered").
        split: what the sample is used for; no clip is both trained on and evaluated.
        chain: a reasoning chain for SFT (a whole response), or None.
        spans: [start, end] in seconds of each gold interval (`temporal_grounding`, `grounded_qa`).
        boxes: [x0, y0, x1, y1] in the units that the question asks for: one (`spatial_grounding`), or one per gold
            frame in order (`tracking`).
        events: what a caption must mention (`caption`); a published test set may name none.
        duration: of the clip, in seconds, where known.
        extras: what only some sources know, e.g. `motion` (what the camera really does: one of `rewards.motions`).

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "source": "mine", "split": "rl", "question": "Does it pan?"}
        >>> sample = Sample(**fields, task="binary", options=["No", "Yes"], answer="B")
        >>> sample.answer_text
        'Yes'
        >>> parse_sample(sample.model_dump_json().replace('"B"', '"C"').encode())
        Traceback (most recent call last):
        data_tools.sample.FieldError: answer: 'C' is not a letter of the 2 options
        >>> parse_sample(sample.model_copy(update={"start": 5.0, "end": 2.0}).model_dump_json().encode())
        Traceback (most recent call last):
        data_tools.sample.FieldError: start: 5 is not before the end, 2
        >>> fields |= {"images": ["1.png", "2.png"], "question": "Is <image> wider than <image>?"}
        >>> del fields["video"]
        >>> Sample(**fields, task="binary", options=["No", "Yes"], answer="B").media
        ['1.png', '2.png']
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1)
    video: str | None = Field(default=None, min_length=1)
    images: list[Annotated[str, Field(min_length=1)]] = Field(default=[], exclude_if=lambda images: not images)
    frames: list[Annotated[str, Field(min_length=1)]] = Field(default=[], exclude_if=lambda frames: not frames)
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    question: str = Field(min_length=1)
    options: list[str] = []
    answer: str = ""
    task: Task
    source: str = Field(min_length=1)
    split: Literal["sft", "rl", "val", "test"]
    chain: str | None = None
    spans: list[list[float]] = []
    boxes: list[list[float]] = []
    events: list[str] = []
    duration: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    start: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    end: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    extras: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _a_list_of_files_is_a_video(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("video"), list):
            return {**given, "video": None, "frames": given["video"]}
        return given

    @field_validator("video", "images", "frames")
    @classmethod
    def _stay_under_the_media_root(cls, given: str | list[str] | None) -> str | list[str] | None:
        for name in given if isinstance(given, list) else [given or ""]:
            path = PurePosixPath(name)
            if "\\" in name:
                raise ValueError(f"{name!r} has backslashes: write / between folders, relative to the media root")
            if "://" in name:
                raise ValueError(f"{name!r} is an address: download the file, and give its path under the media root")
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name!r} must be relative and stay under the media root")
            if "\0" in name:
                raise ValueError(f"{name!r} holds a NUL byte, which no file's name can")
        return given

    @field_validator("question")
    @classmethod
    def _is_not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("is blank")
        return text

    @field_validator("options")
    @classmethod
    def _prompts_give_them_their_letters(cls, options: list[str]) -> list[str]:
        return without_letters(options)

    @model_validator(mode="after")
    def _shows_a_video_or_images(self) -> "Sample":
        if not (shown := [name for name in ("video", "frames", "images") if getattr(self, name)]):
            raise ValueError("video: is missing, and so are images")
        if len(shown) > 1:
            raise ValueError(f"{shown[-1]}: a sample shows a video or images, not both")
        if self.images and self.fps is not None:
            raise ValueError("fps: images have no rate; where they are the frames of a video, give them as frames")
        if self.images and (self.start is not None or self.end is not None):
            raise ValueError("start: an image has no seconds")
        held = "\n".join((self.question, *self.options)).count(IMAGE)
        if self.images and held not in (0, len(self.images)):
            raise ValueError(f"images: {len(self.images)} for {held} placeholders {IMAGE} in question and options")
        return self

    @model_validator(mode="after")
    def _has_what_its_task_needs(self) -> "Sample":
        try:
            self.model_dump_json()
        except PydanticSerializationError as error:
            raise ValueError(f"holds half a character, or another value that no file can hold: {error}") from error
        for field in NEEDS[self.task]:
            _CHECKS[field](self)
        if self.end is not None and (self.start or 0) >= self.end:
            raise ValueError(f"start: {self.start:g} is not before the end, {self.end:g}")
        for span in self.spans:
            if len(span) != 2 or not 0 <= span[0] < span[1] < float("inf"):
                raise ValueError(f"spans: {span} is not a valid [start, end] in seconds")
        if (motion := self.extras.get("motion")) is not None and motion not in PRIMITIVES:
            raise ValueError(f"extras: motion {motion!r} is not one of {', '.join(PRIMITIVES)}")
        for box in self.boxes:
            if len(box) != 4 or not all(map(isfinite, box)) or not (box[0] < box[2] and box[1] < box[3]):
                raise ValueError(f"boxes: {box} is not a valid [x0, y0, x1, y1]")
        return self

    @property
    def media(self) -> list[str]:
        """Paths of all that the sample shows: its video, or its images in order; of frames a name for their list."""
        return self.images or [self.video or _name_of(self.frames)]

    @property
    def shows(self) -> str:
        """The field that names them."""
        return "images" if self.images else "frames" if self.frames else "video"

    @property
    def shown(self) -> str:
        """What the sample shows, in one name: samples of the same name show the same."""
        return " ".join(self.media)

    @property
    def cuts(self) -> list[Cut]:
        """The part of the video that the question is about, or each of its images."""
        return [Cut(name, self.start, self.end, self.fps, tuple(self.frames)) for name in self.media]

    @property
    def answer_text(self) -> str:
        """Text of the right option."""
        return self.options[ascii_uppercase.index(self.answer)] if self.task in BY_OPTION else self.answer

    @property
    def gold(self) -> str:
        """What is right, as people read it."""
        return self.answer_text or json.dumps(self.spans or self.boxes or self.events)


def _name_of(frames: Sequence[str]) -> str:
    """A name for a list of files that no other list has."""
    content = hashlib.sha256(ascii(frames).encode()).hexdigest()[:6]
    return f"{frames[0]} … {frames[-1]} ({len(frames)} frames, {content})"


def letters_of(options: Sequence[str]) -> str:
    """The letters that all options bring, as A to Z; empty where one brings none."""
    found = [match for option in options if (match := LETTERED.fullmatch(option.strip()))]
    return half_width("".join(match[1] for match in found)) if len(found) == len(options) else ""


def without_letters(options: Sequence[str]) -> list[str]:
    """Option texts without the letters A, B, C ... that all of them bring in this order.

    Example:
        >>> without_letters(["A. No", "B. Yes"]), without_letters(["C. elegans", "E. coli"])
        (['No', 'Yes'], ['C. elegans', 'E. coli'])
    """
    if not options or letters_of(options) != ascii_uppercase[: len(options)]:
        return list(options)
    return [LETTERED.sub(r"\2", option.strip(), count=1).strip() for option in options]


def _has_options(sample: Sample) -> None:
    options, answer = sample.options, sample.answer
    if len(options) > len(ascii_uppercase):
        raise ValueError(f"options: {len(options)}, more than letters to name them by")
    if len({option.strip().casefold() for option in options}) < 2 or (sample.task == "binary" and len(options) != 2):
        raise ValueError(f"options: {sample.task} needs two or more different options, got {options}")
    if len(answer) != 1 or answer not in ascii_uppercase[: len(options)]:
        raise ValueError(f"answer: {answer!r} is not a letter of the {len(options)} options")


def _has_answer(sample: Sample) -> None:
    if not sample.answer.strip():
        raise ValueError(f"answer: {sample.task} needs one")


def _has_number(sample: Sample) -> None:
    _has_answer(sample)
    try:
        number = float(sample.answer.replace(",", ""))
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"answer: {sample.answer!r} is not a number")


def _has_any(field: str) -> Callable[[Sample], None]:
    def check(sample: Sample) -> None:
        if not getattr(sample, field) and not (field == "events" and sample.split == "test"):  # DREAM-1K: 4 have none
            raise ValueError(f"{field}: {sample.task} needs one or more")

    return check


_CHECKS: Mapping[str, Callable[[Sample], None]] = {
    "options": _has_options,
    "answer": _has_answer,
    "number": _has_number,
    **{field: _has_any(field) for field in ("spans", "boxes", "events")},
}


def parse_sample(line: bytes) -> Sample:
    """The sample of one line of JSON.

    Raises:
        FieldError: naming the first bad field.
    """
    if len(line) > LONGEST_LINE:
        raise FieldError("record", f"the line is longer than {LONGEST_LINE >> 20} MiB")
    if line.lstrip().startswith(b"["):
        raise FieldError("record", "Input should be an object, not a list: one sample a line, as `jq -c '.[]'` gives")
    try:
        record = parse_json(line)  # refuses a duplicate key, of which pydantic takes the last
        if isinstance(record, dict) and "question" not in record and record.keys() & OF_TRAINERS:
            raise FieldError(
                "record",
                f"has the keys {', '.join(record)[:SHORT]} instead of a sample's: if another trainer reads this file, "
                "python -m data_tools.sources makes samples of it (docs/data.md)",
            )
        return Sample.model_validate_json(line)
    except ValidationError as error:
        raise first_fault(error) from error
    except JsonError as error:
        raise FieldError("record", str(error)) from error


def first_fault(error: ValidationError) -> FieldError:
    """The first fault that pydantic found, with the field that it lies in."""
    first = error.errors(include_url=False, include_input=False)[0]
    # a union's part names the kind that was tried: id.str, options.function-before[_cell(), str]
    parts = [str(part) for part in first["loc"] if part not in ("str", "int", "float") and "[" not in str(part)]
    field, reason = ".".join(parts), first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_too_short":
        reason = "is empty"
    if not field and reason.partition(": ")[0] in Sample.model_fields:  # a check of several fields names the wrong one
        field, _, reason = reason.partition(": ")
    return FieldError(field or "record", reason)


def read_samples(path: Path) -> Iterator[Sample]:
    """Stream the samples of a JSON Lines file.

    Raises:
        SampleError: naming file, line and field of the first bad record, a duplicate id, or an empty file.
    """
    require_lines(path)
    ids: set[str] = set()
    for number, line in read_lines(path):
        try:
            sample = parse_sample(line)
        except FieldError as error:
            raise SampleError(f"{path}:{number}: {error}") from error
        if sample.id in ids:
            raise SampleError(f"{path}:{number}: id: duplicate id {sample.id!r}")
        ids.add(sample.id)
        yield sample
    if not ids:
        raise SampleError(f"{path}: holds no samples")


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples as JSON Lines, all or nothing; their number."""
    count = 0
    with whole_file(path) as out:
        for sample in samples:
            count += 1
            out.write(sample_line(sample))
    return count


def sample_line(sample: Sample) -> str:
    """A sample as a line of JSON."""
    return json.dumps(sample.model_dump(exclude_none=True), ensure_ascii=False) + "\n"

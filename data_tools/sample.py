"""The one typed record that every source is read into and every engine file is written from."""

import codecs
import json
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

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
BY_OPTION = ("binary", "choice", "grounded_qa", "quality")
LONGEST_LINE = 8 << 20  # bytes; a longer one is no record of a data set, and would be held in memory


class SampleError(ValueError):
    """A record that breaks the contract; the message names file, line and field."""


class RecordError(ValueError):
    """A fault of one record, wherever it lies: the field, and what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class Sample(BaseModel):
    """One question about one clip.

    Attributes:
        id: unique within its file.
        video: path of the clip relative to the media root, with forward slashes.
        question: text of the question, without options.
        options: option texts in the order shown; their letters are A, B, C ...
        answer: letter of the right option for the tasks `BY_OPTION`; the text or number asked for in the others; empty
            where spans, boxes or events say it all.
        task: decides how the answer is scored.
        source: where the record comes from (a data set's name, or "rendered").
        split: which part of the work may use it; no clip stands in two splits.
        chain: a reasoning chain for SFT (a whole response), or None.
        spans: [start, end] in seconds of each gold interval (`temporal_grounding`, `grounded_qa`).
        boxes: [x0, y0, x1, y1] in the units that the question asks for: one (`spatial_grounding`), or one per gold
            frame in order (`tracking`).
        events: what a caption must tell (`caption`).
        duration: of the clip, in seconds, where known.
        extras: what only some sources know, e.g. `motion` (what the camera really does) of a rendered clip.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1)
    video: str = Field(min_length=1)
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
    extras: dict[str, Any] = {}

    @field_validator("video")
    @classmethod
    def _stays_under_the_media_root(cls, video: str) -> str:
        path = PurePosixPath(video)
        if path.is_absolute() or ".." in path.parts or "\\" in video:
            raise ValueError(f"{video!r} must be relative and stay under the media root")
        return video

    @model_validator(mode="after")
    def _has_what_its_task_needs(self) -> "Sample":
        if self.task in BY_OPTION:
            if len(self.options) < 2 or len(set(self.options)) != len(self.options):
                raise ValueError(f"options: {self.task} needs two or more different options, got {self.options}")
            if len(self.answer) != 1 or self.answer not in ascii_uppercase[: len(self.options)]:
                raise ValueError(f"answer: {self.answer!r} is no letter of the {len(self.options)} options")
        elif self.task in ("temporal_grounding", "spatial_grounding", "tracking", "caption"):
            pass
        elif not self.answer.strip():
            raise ValueError(f"answer: {self.task} needs one")
        elif self.task in ("numerical", "regression"):
            _finite(self.answer)
        if self.task in ("temporal_grounding", "grounded_qa") and not self.spans:
            raise ValueError(f"spans: {self.task} needs one or more")
        if self.task in ("spatial_grounding", "tracking") and not self.boxes:
            raise ValueError(f"boxes: {self.task} needs one or more")
        if self.task == "caption" and not self.events:
            raise ValueError("events: caption needs one or more")
        for span in self.spans:
            if len(span) != 2 or not 0 <= span[0] < span[1] < float("inf"):
                raise ValueError(f"spans: {span} is no [start, end] in seconds")
        for box in self.boxes:
            if len(box) != 4 or not all(map(isfinite, box)) or not (box[0] < box[2] and box[1] < box[3]):
                raise ValueError(f"boxes: {box} is no [x0, y0, x1, y1]")
        return self

    @property
    def answer_text(self) -> str:
        """Text of the right option."""
        return self.options[ascii_uppercase.index(self.answer)] if self.task in BY_OPTION else self.answer


def _finite(text: str) -> float:
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"answer: {text!r} is no number")
    return number


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank, without byte-order mark and line ending.

    Of a line beyond LONGEST_LINE only that much is kept in memory, and one byte more, which `parse_sample` refuses.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE + 1)
            line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
            if line.strip():
                yield number, line


def parse_sample(line: bytes) -> Sample:
    """The sample of one line of JSON.

    Raises:
        RecordError: naming the first bad field.
    """
    if len(line) > LONGEST_LINE:
        raise RecordError("record", f"the line is longer than {LONGEST_LINE >> 20} MiB")
    try:
        return Sample.model_validate_json(line)
    except ValidationError as error:
        raise first_fault(error) from error


def first_fault(error: ValidationError) -> RecordError:
    """The first fault that pydantic found, with the field that it lies in."""
    first = error.errors(include_url=False, include_input=False)[0]
    field, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if not field and reason.partition(": ")[0] in Sample.model_fields:  # a check of several fields names the wrong one
        field, _, reason = reason.partition(": ")
    return RecordError(field or "record", reason)


def read_samples(path: Path) -> Iterator[Sample]:
    """Stream the samples of a JSON Lines file.

    Raises:
        SampleError: naming file, line and field of the first bad record, a repeated id, or an empty file.
    """
    ids: set[str] = set()
    for number, line in read_lines(path):
        try:
            sample = parse_sample(line)
        except RecordError as error:
            raise SampleError(f"{path}:{number}: {error}") from error
        if sample.id in ids:
            raise SampleError(f"{path}:{number}: id: {sample.id!r} stands twice")
        ids.add(sample.id)
        yield sample
    if not ids:
        raise SampleError(f"{path}: holds no sample")


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples as JSON Lines, whole or not at all, and give their number."""
    count = 0
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for sample in samples:
            record = sample.model_dump(exclude_none=True)
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count

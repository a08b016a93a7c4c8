"""Labels of your own as a table that names its columns: CSV, TSV or Parquet."""

from contextlib import suppress
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from data_tools.files import JsonError, parse_json
from data_tools.sample import FieldError
from data_tools.sources.base import Item, Record, Source, plain_question
from data_tools.sources.readers import any_table
from data_tools.sources.trainers import YOURS, answered
from rewards.tasks import ANSWER_FORMS


def _cell(value: Any) -> Any:
    """Text of a number, and of an empty cell, without white space around it."""
    if value is None or value != value:  # Parquet may hold NaN
        return ""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Cell = Annotated[str, BeforeValidator(_cell)]


class Row(Record):
    """A row of a table: `video`, `question`, `answer`, and where wanted `options` (with | between them, or a list as
    JSON), `task`, `id`, `start`, `end` (seconds), `fps` (of a folder of pictures), `chain`, and `spans`, `boxes`,
    `events` as JSON. What Parquet has as lists and numbers is taken, too; an empty cell is none.
    """

    video: Cell
    question: Cell
    answer: Cell = ""
    options: Cell | list[Cell] = ""
    task: Cell = ""
    id: Cell = ""
    start: Cell = ""
    end: Cell = ""
    fps: Cell = ""
    chain: Cell = ""
    spans: Cell | list[Any] = ""
    boxes: Cell | list[Any] = ""
    events: Cell | list[Any] = ""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """Columns are named without regard to case and white space. One that nearly has a name is not overlooked."""
        if not isinstance(given, dict):
            return given
        found: dict[str, Any] = {}
        for column, cell in given.items():
            if (name := str(column).strip().lower()) in found and name in cls.model_fields:
                raise ValueError(f"two columns have the name {name!r}: keep one of them")
            found[name] = cell
        lacking = {name.rstrip("s"): name for name in cls.model_fields.keys() - found.keys()}
        if near := next((name for name in found.keys() - cls.model_fields.keys() if name.rstrip("s") in lacking), None):
            raise ValueError(f"the column {near!r} is not read: name it {lacking[near.rstrip('s')]!r}")
        return found

    def fields(self, item: Item) -> dict[str, Any]:
        options = self.options if isinstance(self.options, list) else _options(self.options)
        if "" in options:
            raise FieldError("options", f"one of {options} is empty")
        found: dict[str, Any] = {"video": self.video, "question": plain_question(self.question)}
        found |= {name: text for name in ("id", "chain") if (text := getattr(self, name))}
        found |= {name: _number(name, text) for name in ("start", "end", "fps") if (text := getattr(self, name))}
        found |= {name: _json(name, text) for name in ("spans", "boxes", "events") if (text := getattr(self, name))}
        if self.task not in ("", "binary") and not options:
            return found | {"task": self.task, "answer": self.answer}
        if not self.answer:
            raise FieldError(
                "answer", "is empty; where it is in spans, boxes or events, the column task says which task"
            )
        return found | answered(options, self.answer) | ({"task": self.task} if self.task else {})


def _options(text: str) -> list[str]:
    if text.startswith("["):  # a list; or the first of several that begin so: [0, 1] | [1, 2]
        with suppress(JsonError):
            return [str(option).strip() for option in parse_json(text)]
    return [option.strip() for option in text.split("|")] if text else []


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise FieldError(name, f"{text!r} is not a number") from error


def _json(name: str, text: str | list[Any]) -> Any:
    if isinstance(text, list):
        return text
    try:
        return parse_json(text)
    except JsonError as error:
        raise FieldError(name, f"{text[:80]!r}: {error}") from error


SOURCES = (
    Source(
        name="table",
        title="a table of labels: CSV, TSV or Parquet",
        items=any_table,
        record=Row,
        tasks=tuple(ANSWER_FORMS),
        licence=YOURS,
        labels="video, question, answer; options with | between them, or as a JSON list",
        media="as the paths say, under data.media_root",
    ),
)

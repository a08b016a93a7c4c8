"""Labels of your own as a table that names its columns: CSV, TSV or Parquet."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from data_tools.files import JsonError, parse_json
from data_tools.sample import FieldError
from data_tools.sources.base import Item, Record, Source
from data_tools.sources.readers import any_table
from data_tools.sources.trainers import YOURS, answered
from rewards.tasks import ANSWER_FORMS


def _cell(value: Any) -> Any:
    """Text of a number, and of an empty cell."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Cell = Annotated[str, BeforeValidator(_cell)]


class Row(Record):
    """A row of a table: `video`, `question`, `answer`, and where wanted `options` (with | between them), `task`, `id`,
    `start`, `end` (seconds), `fps` (of a folder of pictures), `chain`, and `spans`, `boxes`, `events` as JSON. What
    Parquet has as lists and numbers is taken, too; an empty cell is none.
    """

    video: Cell
    question: Cell
    answer: Cell = ""
    options: Cell | list[str] = ""
    task: Cell = ""
    id: Cell = ""
    start: Cell = ""
    end: Cell = ""
    fps: Cell = ""
    chain: Cell = ""
    spans: Cell | list[Any] = ""
    boxes: Cell | list[Any] = ""
    events: Cell | list[Any] = ""

    def fields(self, item: Item) -> dict[str, Any]:
        options = self.options
        if isinstance(options, str):
            options = [option.strip() for option in options.split("|")] if options.strip() else []
        found: dict[str, Any] = {"video": self.video, "question": self.question}
        found |= {name: text for name in ("id", "chain") if (text := getattr(self, name))}
        found |= {name: _number(name, text) for name in ("start", "end", "fps") if (text := getattr(self, name))}
        found |= {name: _json(name, text) for name in ("spans", "boxes", "events") if (text := getattr(self, name))}
        if self.task and not options:
            return found | {"task": self.task, "answer": self.answer}
        return found | answered(options, self.answer) | ({"task": self.task} if self.task else {})


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
        labels="video, question, answer; options with | between them",
        media="as the paths say, under data.media_root",
    ),
)

"""Read published label files."""

import ast
import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from types import UnionType
from typing import Any

from pydantic import ValidationError

from data_tools.files import JsonError, open_text, parse_json, read_lines
from data_tools.sample import FieldError, Sample, first_fault
from data_tools.sources import SOURCES
from data_tools.sources.base import Item, Items, SourceError, plain_options
from data_tools.sources.readers import csv_rows, json_lines, parquet_rows
from rewards.errors import UserError
from rewards.reading import chosen_option

Kind = type | UnionType  # of a value


class LabelError(UserError):
    """A label file that breaks its format; the message names file, record and field."""


def labels_hash(samples: Iterable[Sample]) -> str:
    """Hash of the labels' content, independent of their file."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.model_dump_json().encode())
    return digest.hexdigest()[:12]


def make_sample(where: str, **fields: Any) -> Sample:
    """A sample from a label record; `where` names file and record in the error."""
    try:
        return Sample.model_validate(fields | {"split": "test"})
    except ValidationError as error:
        raise LabelError(f"{where}: {first_fault(error)}") from error


def need(record: Any, key: str, where: str, kind: Kind = object) -> Any:
    """A required field of a record.

    Args:
        kind: of its value.

    Raises:
        LabelError: it is missing, or of another kind.
    """
    if not isinstance(record, Mapping) or key not in record:
        raise LabelError(f"{where}: {key}: missing; is this the benchmark's own label file?")
    return of_kind(record[key], kind, f"{where}: {key}")


def optional(record: Mapping[str, Any], key: str, where: str, kind: Kind, default: Any = None) -> Any:
    """A field that a record may lack, or have as null: `default` then.

    Raises:
        LabelError: it is of another kind.
    """
    value = record.get(key)
    return default if value is None else of_kind(value, kind, f"{where}: {key}")


def of_kind(value: Any, kind: Kind, where: str) -> Any:
    """A value that is of a kind.

    Raises:
        LabelError: it is of another one.
    """
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise LabelError(f"{where}: {str(value)[:80]!r} is of type {type(value).__name__} instead of {wanted}")
    return value


def read_json(path: Path) -> Any:
    with open_text(path) as file:
        content = file.read()
    try:
        return parse_json(content.removeprefix(BOM_UTF8))
    except JsonError as error:
        raise LabelError(f"{path}: {error}") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON list, JSON Lines, CSV, TSV or Parquet file, by its suffix."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise LabelError(f"{path}: no such label file")
    if suffix not in (".json", *_READERS):
        raise LabelError(
            f"{path}: cannot read {suffix or 'a file without a suffix'}; give json, jsonl, csv, tsv, parquet"
        )
    try:
        rows = read_json(path) if suffix == ".json" else [_content(item) for item in _READERS[suffix](path)]
    except SourceError as error:
        raise LabelError(str(error)) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise LabelError(f"{path}: must hold a list of records, and at least one")
    return rows


_READERS: dict[str, Items] = {".jsonl": json_lines, ".csv": csv_rows, ".tsv": csv_rows, ".parquet": parquet_rows}


def _content(item: Item) -> Any:
    if isinstance(item.content, FieldError):
        raise LabelError(f"{item.file}:{item.place}: {item.content}")
    return item.content


def no_parts(only: Sequence[str] | None) -> None:
    """Raise LabelError where parts of a benchmark without parts are named, instead of scoring all of it."""
    if only:
        raise LabelError(f"only={','.join(only)}: this benchmark has no parts to choose from; leave only=... out")


def from_source(name: str, path: Path) -> list[Sample]:
    """Samples of a published file by the source of this name in `data_tools.sources`; a bad record is an error.

    Raises:
        LabelError: naming file, record and field.
    """
    samples, source = [], SOURCES[name]
    try:
        for item in source.items(path):
            where = f"{item.file}: record {item.place}"
            if isinstance(item.content, FieldError):
                raise LabelError(f"{where}: {item.content}")
            try:
                fields = source.record.model_validate(item.content).fields(item)
            except ValidationError as error:
                raise LabelError(f"{where}: {first_fault(error)}") from error
            except FieldError as error:
                raise LabelError(f"{where}: {error}") from error
            # As `python -m launch.data` does for a record without an id.
            fields.setdefault("id", f"{item.file.stem}-{item.place}")
            samples.append(make_sample(where, **fields, source=name))
    except SourceError as error:
        raise LabelError(str(error)) from error
    return samples


def choice_sample(where: str, options: Sequence[str], answer: Any, **fields: Any) -> Sample:
    """A sample with options (lettered or not) and its right answer: a letter, a text, or an index.

    A letter is the place of an option, also where the options are letters themselves: publishers whose golds are texts
    give the index. Full stops after options are removed: an answer names the same option with and without.
    """
    options = [str(option).strip() for option in options]
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = ascii_uppercase[answer] if 0 <= answer < len(options) else str(answer)
    elif len(text := str(answer).strip()) > 1 and text in options:
        answer = ascii_uppercase[options.index(text)]
    try:
        options = plain_options(options)
    except FieldError:
        pass  # letters that are part of the texts: the order is what publishers' golds go by
    plain = [option.rstrip(".") or option for option in options]
    options = plain if len(set(plain)) == len(set(options)) else options
    if (chosen := chosen_option(str(answer), options)) is None:
        raise LabelError(f"{where}: answer: {str(answer)[:80]!r} names none of the options {options}")
    return make_sample(where, options=options, answer=ascii_uppercase[chosen], **fields)


def oddities(samples: Sequence[Sample]) -> str:
    """How many records of a published set are odd, and by which rule they are taken; "" where none is.

    Example:
        >>> fields = {"id": "1", "video": "a.mp4", "question": "?", "source": "nextgqa", "split": "test"}
        >>> oddities([Sample(**fields, task="choice", options=["a", "b", "a"], answer="A")])
        '1 of 1 questions list an option twice (either is right)'
    """
    count = len(samples)
    said = {
        "list an option twice (either is right)": sum(len(set(s.options)) < len(s.options) for s in samples),
        "have a span from before 0 s (it begins at 0)": sum("before_zero" in s.extras for s in samples),
        "name a moment that ends after the clip (as published)": sum(map(_ends_late, samples)),
        "name no event (recall 1)": sum(s.task == "caption" and not s.events for s in samples),
        "accept several answers": sum("also" in s.extras for s in samples),
    }
    return "; ".join(f"{number} of {count} questions {what}" for what, number in said.items() if number)


def _ends_late(sample: Sample) -> bool:
    return sample.duration is not None and any(end > sample.duration for _, end in sample.spans)


def is_samples(path: Path) -> bool:
    """Whether a file holds the project's samples, on which any benchmark can be scored."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    try:
        Sample.model_validate_json(next((line for _, line in read_lines(path)), b""))
    except ValidationError:
        return False
    return True


def literal(value: Any, kind: type, where: str) -> Any:
    """JSON or a Python literal in a string (both occur in the published file)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise LabelError(f"{where}: {value[:80]!r} is neither JSON nor a literal") from error
    if not isinstance(value, kind) or not value:
        raise LabelError(f"{where}: {value!r} is not a non-empty {kind.__name__}")
    return value

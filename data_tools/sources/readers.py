"""Published files as streams of items: whatever their size, one record at a time is in memory."""

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_tools.files import LONGEST_LINE, JsonError, duplicate_key, open_text, parse_json, read_lines
from data_tools.sample import FieldError
from data_tools.sources.base import Item, Items, SourceError

DEEPEST = 100  # levels of values within values; published records have five at most
_ESCAPE, _OPENING = re.compile(rb"\\.", re.DOTALL), tuple(b"[{")
_NO_BRACKETS = bytes(set(range(256)).difference(b"[]{}"))
JSON = (".json", ".jsonl", ".ndjson")
LABELS = (*JSON, ".csv", ".tsv", ".parquet")  # endings of label files, in a folder of them too


def json_lines(path: Path) -> Iterator[Item]:
    """One item per line, of a file or of all *.jsonl files under a folder."""
    for file in _files(path, ".jsonl"):
        for number, line in read_lines(file):
            yield Item(file, str(number), _parsed(line))


def _parsed(line: bytes) -> Any:
    if len(line) > LONGEST_LINE:
        return FieldError("record", f"the line is longer than {LONGEST_LINE >> 20} MiB")
    try:
        return parse_json(line)
    except JsonError as error:
        return FieldError("record", str(error))


def json_array(path: Path) -> Iterator[Item]:
    """One item per element of a JSON array, counted from 1; of a file or of all *.json files under a folder."""
    for file in _files(path, ".json"):
        for number, content in enumerate(_stream(file, "item"), 1):
            yield Item(file, str(number), _fault(content) or content)


def json_or_lines(path: Path) -> Iterator[Item]:
    """As `json_array` or `json_lines`, by how each file begins: either ending is in use for both."""
    for file in _files(path, *JSON):
        yield from (json_lines if _holds_lines(file) else json_array)(file)


def _holds_lines(file: Path) -> bool:
    """Whether each line is a record. An object over several lines is none, nor is a list of records."""
    with open_text(file) as stream:
        head = stream.read(4096).removeprefix(BOM_UTF8).lstrip()
        if file.suffix.lower() != ".json":
            return not head.startswith(b"[")
        stream.seek(0)
        return head.startswith(b"{") and next(line for line in stream if b"{" in line).rstrip().endswith(b"}")


def json_object(flatten: Callable[[str, Any], Iterator[tuple[str, Any]]]) -> Items:
    """Items of a JSON object by video id: `flatten(id, value)` gives place and content of each."""

    def items(path: Path) -> Iterator[Item]:
        for file in _files(path, ".json"):
            for key, value in _stream(file, ""):
                fault = _fault(value)
                for place, content in [(key, fault)] if fault else flatten(key, value):
                    yield Item(file, place, content)

    return items


def csv_rows(path: Path) -> Iterator[Item]:
    """One item per row of a table whose first line names the columns, of a file or of all *.csv and *.tsv of a folder.

    Between columns stand commas, semicolons (as spreadsheets write where a comma stands in numbers) or tabs, whichever
    that line has most of. Rows without any text are left out.
    """
    csv.field_size_limit(1 << 24)
    for file in _files(path, ".csv", ".tsv"):
        with open_text(file) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as lines:
            try:
                yield from _rows(file, lines)
            except UnicodeDecodeError as error:
                raise SourceError(f"{file}: {_not_utf8(file)}") from error


def _rows(file: Path, lines: Iterator[str]) -> Iterator[Item]:
    first = next((line for line in lines if line.strip() and not line.lower().startswith("sep=")), "")  # Excel's hint
    delimiter = max("\t;," if file.suffix.lower() == ".tsv" else ",;\t", key=first.count)
    rows, begins = csv.reader(chain([first], lines), delimiter=delimiter, strict=True), 1
    try:
        names = next(rows, [])
        while names and not names[-1].strip():
            names.pop()
        if repeated := sorted({name for name in names if name and names.count(name) > 1}):
            raise SourceError(f"{file}: two columns have the name {repeated[0]!r}: keep one of them")
        begins = rows.line_num + 1
        for number, cells in enumerate(rows, 1):
            begins = rows.line_num + 1
            content: Any = {name: cell for name, cell in zip(names, cells + [None] * len(names)) if name}
            if any(cell.strip() for cell in cells[len(names) :]):
                named = f"{len(names)} columns ({', '.join(names)})"
                content = FieldError(
                    "record", f"has {len(cells)} cells for {named}: put texts that hold {delimiter!r} in quotes"
                )
            if any(cell.strip() for cell in cells):
                yield Item(file, str(number), content)
    except csv.Error as error:
        raise SourceError(
            f"{file}: the row from line {begins} on: {error}. Is a quote not closed, or not doubled inside a text?"
        ) from error


def _not_utf8(file: Path) -> str:
    """Which line is not, and what to do."""
    for number, line in read_lines(file):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            what = f"line {number} is not text in UTF-8 ({error.reason} at byte {error.start})"
            return f"{what}: save it as UTF-8 (a table as CSV UTF-8), or turn it, `iconv -f WINDOWS-1252 -t UTF-8`"
    return "not text in UTF-8"


def parquet_rows(path: Path) -> Iterator[Item]:
    """One item per row of a Parquet file, or of all under a folder."""
    import pyarrow
    import pyarrow.parquet as pq

    for file in _files(path, ".parquet"):
        try:
            batches = pq.ParquetFile(file).iter_batches(batch_size=256)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Item(file, str(number), row)
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(f"{file}: not a Parquet file: {str(error).splitlines()[0]}") from error


def any_table(path: Path) -> Iterator[Item]:
    """The items of a file, or of all label files of a folder, by their endings."""
    readers: dict[str, Items] = {".parquet": parquet_rows, ".csv": csv_rows, ".tsv": csv_rows}
    readers |= dict.fromkeys(JSON, json_or_lines)
    for file in _files(path, *LABELS):
        if (ending := file.suffix.lower()) not in readers:
            raise SourceError(
                f"{file}: cannot read {ending or 'a file without an ending'}; give {', '.join(LABELS)} (a spreadsheet "
                "saves its table as CSV UTF-8)"
            )
        yield from readers[ending](file)


def _files(path: Path, *endings: str) -> list[Path]:
    if path.is_dir():
        if files := sorted(file for file in path.rglob("*") if file.suffix.lower() in endings and file.is_file()):
            return files
        raise SourceError(f"{path}: holds no file that ends in {', '.join(endings)}")
    if not path.is_file():
        raise SourceError(f"{path}: is missing")
    return [path]


class _Object(dict[str, Any]):
    """An object of a streamed file, with what is wrong with it."""

    fault: JsonError | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.fault = duplicate_key(key, self[key], value)
        super().__setitem__(key, value)


def _fault(content: Any) -> FieldError | None:
    """What is wrong with streamed content, or with what it holds."""
    if isinstance(content, _Object) and content.fault:
        return FieldError("record", str(content.fault))
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return next((fault for each in inner if isinstance(each, (dict, list)) and (fault := _fault(each))), None)


class _Shallow:
    """A stream of JSON for ijson, whose names of places take the square of the levels of nesting in memory."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self._stream, self._file = stream, file
        self._depth, self._inside, self._escaped = 0, 0, False
        self.deepest = 0  # levels in what was read last

    def read(self, size: int = -1) -> bytes:
        """As of any file.

        Raises:
            SourceError: values are nested deeper than DEEPEST.
        """
        chunk = self._stream.read(size)
        if not chunk:
            return chunk
        text = _ESCAPE.sub(b"", chunk[self._escaped :])
        self._escaped = text.endswith(b"\\")
        parts = text.split(b'"')  # within strings and outside of them, in turn
        brackets = np.frombuffer(b"".join(parts[self._inside :: 2]).translate(None, _NO_BRACKETS), np.uint8)
        self._inside = (self._inside + len(parts) - 1) % 2
        depths = self._depth + np.cumsum(np.where(np.isin(brackets, _OPENING), 1, -1))
        if depths.size:
            self._depth, self.deepest = int(depths[-1]), int(depths.max())
            if self.deepest > DEEPEST:
                raise SourceError(
                    f"{self._file}: values are nested in more than {DEEPEST} levels: not a file of records"
                )
        return chunk


def _stream(file: Path, prefix: str) -> Iterator[Any]:
    """Elements of the outermost array (`item`) or entries of the outermost object (an empty prefix)."""
    import ijson

    kind, first = ("array", b"[") if prefix else ("object", b"{")
    with open_text(file) as stream:
        head = stream.read(4096)
        stream.seek(len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0)
        if not head.removeprefix(BOM_UTF8).strip():
            return
        if not head.removeprefix(BOM_UTF8).lstrip().startswith(first):
            hint = "; give a list of records, or a record a line" if prefix else ""
            raise SourceError(f"{file}: not a JSON {kind} of records{hint}. It begins with {head[:40]!r}")
        read = ijson.items if prefix else ijson.kvitems
        count = 0
        try:
            for element in read(_Shallow(stream, file), prefix, use_float=True, map_type=_Object):
                count += 1
                yield element
        except (ijson.JSONError, UnicodeDecodeError) as error:
            said = error.args[0] if error.args else ""
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(error)
            why = _not_utf8(file) if isinstance(error, UnicodeDecodeError) or "UTF8" in text else text.splitlines()[0]
            raise SourceError(f"{file}: broken after record {count}: {why}") from error

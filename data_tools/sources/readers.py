"""Published files as streams of items: whatever their size, one record at a time is in memory."""

import csv
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from data_tools.files import LONGEST_LINE, JsonError, duplicate_key, open_text, parse_json, read_lines
from data_tools.sample import FieldError
from data_tools.sources.base import Item, Items, SourceError


def json_lines(path: Path) -> Iterator[Item]:
    """One item per line, of a file or of all *.jsonl files under a folder."""
    for file in _files(path, "*.jsonl"):
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
    for file in _files(path, "*.json"):
        for number, content in enumerate(_stream(file, "item"), 1):
            yield Item(file, str(number), _fault(content) or content)


def json_or_lines(path: Path) -> Iterator[Item]:
    """As `json_array` or `json_lines`, by the file's ending."""
    return json_lines(path) if path.suffix == ".jsonl" else json_array(path)


def json_object(flatten: Callable[[str, Any], Iterator[tuple[str, Any]]]) -> Items:
    """Items of a JSON object by video id: `flatten(id, value)` gives place and content of each."""

    def items(path: Path) -> Iterator[Item]:
        for file in _files(path, "*.json"):
            for key, value in _stream(file, ""):
                fault = _fault(value)
                for place, content in [(key, fault)] if fault else flatten(key, value):
                    yield Item(file, place, content)

    return items


def csv_rows(path: Path) -> Iterator[Item]:
    """One item per row of a table whose first line names the columns; with tabs between them where it ends in .tsv."""
    (file,) = _files(path, "*.csv")
    csv.field_size_limit(1 << 24)
    with open_text(file) as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as lines:
        try:
            rows = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
            names = [name for name in rows.fieldnames or () if name]
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise SourceError(f"{file}: two columns have the name {repeated[0]!r}: keep one of them")
            for number, row in enumerate(rows, 1):
                yield Item(file, str(number), row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{file}: not a table: {error}") from error


def parquet_rows(path: Path) -> Iterator[Item]:
    """One item per row of a Parquet file, or of all under a folder."""
    import pyarrow
    import pyarrow.parquet as pq

    for file in _files(path, "*.parquet"):
        try:
            batches = pq.ParquetFile(file).iter_batches(batch_size=256)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Item(file, str(number), row)
        except pyarrow.ArrowException as error:
            raise SourceError(f"{file}: not a Parquet file: {str(error).splitlines()[0]}") from error


def any_table(path: Path) -> Iterator[Item]:
    """The items of a file, by its ending: Parquet, CSV, TSV, JSON Lines, or a JSON array."""
    readers: dict[str, Items] = {".parquet": parquet_rows, ".csv": csv_rows, ".tsv": csv_rows}
    return readers.get(path.suffix, json_or_lines)(path)


def _files(path: Path, pattern: str) -> list[Path]:
    files = sorted(path.rglob(pattern)) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise SourceError(f"{path}: {f'holds no {pattern}' if path.is_dir() else 'is missing'}")
    return files


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


def _stream(file: Path, prefix: str) -> Iterator[Any]:
    """Elements of the outermost array (`item`) or entries of the outermost object (an empty prefix)."""
    import ijson

    kind, first = ("array", b"[") if prefix else ("object", b"{")
    with open_text(file) as stream:
        head = stream.read(4096)
        stream.seek(len(BOM_UTF8) if head.startswith(BOM_UTF8) else 0)
        if not head.removeprefix(BOM_UTF8).lstrip().startswith(first):
            raise SourceError(f"{file}: not a JSON {kind}, as its source publishes; it begins with {head[:40]!r}")
        read = ijson.items if prefix else ijson.kvitems
        count = 0
        try:
            for element in read(stream, prefix, use_float=True, map_type=_Object):
                count += 1
                yield element
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise SourceError(f"{file}: broken after record {count}: {str(error).splitlines()[0]}") from error

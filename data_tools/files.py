"""Files that are never half written: whole-file writes, appended lines, and the repair of a truncated last line."""

import codecs
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any, BinaryIO
from uuid import uuid4

from rewards.errors import SHORT, UserError

TABLES = (".csv", ".tsv", ".parquet", ".xlsx", ".ods")
LONGEST_LINE = 8 << 20  # bytes; a longer line is not a record of a data set, and would be held in memory


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, for writers that open files themselves; renamed when the block ends."""
    if path.is_dir():
        raise FileError(f"{path} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")  # processes may write the same file at once
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill in place of `path`, not yet there; renamed when the block ends without an error.

    What a killed writer left is removed first, so that one process at a time may write it.
    """
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.replace(path)


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open `path` for writing; it appears, or is replaced, when the block ends without an error, and never in part.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder, "new", "a.txt")) as out:
        ...         _ = out.write("all of it")
        ...     Path(folder, "new", "a.txt").read_text()
        'all of it'
    """
    with whole_path(path) as partial, partial.open(mode, encoding=None if "b" in mode else "utf-8") as out:
        yield out


def at_home(content: Any) -> Any:
    """A user's values with `~` spelled out at the beginning of each text: no shell does that behind `key=`.

    Commands do it once, where they read their keys and recipes; nothing else has to.

    Example:
        >>> found = at_home({"files": ["~/a.jsonl", "b~/c"], "seed": 1})
        >>> found == {"files": [f"{Path.home()}/a.jsonl", "b~/c"], "seed": 1}
        True
    """
    if isinstance(content, dict):
        return {key: at_home(value) for key, value in content.items()}
    if isinstance(content, list):
        return [at_home(value) for value in content]
    return os.path.expanduser(content) if isinstance(content, str) and content.startswith("~") else content


class FileError(UserError):
    """A file that is not what its name says; the message says what it is, and what to do."""


# What people hold for a file of labels or a video: how it begins, and what to do.
_MISTAKEN = (
    (b"\x1f\x8b", "is compressed (gzip): unpack it first, `gunzip`"),
    (b"PK\x03\x04", "is a ZIP archive: unpack it first, `unzip`; a spreadsheet saves its table as CSV UTF-8"),
    (b"\xff\xfe", "is text in UTF-16: write it as UTF-8, `iconv -f UTF-16 -t UTF-8`"),
    (b"\xfe\xff", "is text in UTF-16: write it as UTF-8, `iconv -f UTF-16 -t UTF-8`"),
    (b"version https://git-lfs", "is a pointer of Git LFS: fetch the file itself, `git lfs pull`"),
    *((page, "is a web page, as a failed download leaves it") for page in (b"<!doctype", b"<html", b"<head", b"<?xml")),
)


def mistaken(path: Path) -> str | None:
    """What a file is that people take for labels or a video; None where it is none of these.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.jsonl")
        ...     _ = path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
        ...     mistaken(path)
        'is a pointer of Git LFS: fetch the file itself, `git lfs pull`'
    """
    with path.open("rb") as file:
        return _kind(file)


def _kind(file: BinaryIO) -> str | None:
    head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for begins, what in _MISTAKEN if head.startswith(begins.lower())), None)


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file of text for reading its bytes.

    Raises:
        FileError: it is compressed, a pointer, a web page, or in UTF-16.
    """
    with path.open("rb") as file:
        if what := _kind(file):
            raise FileError(f"{path} {what}")
        file.seek(0)
        yield file


def require_lines(path: Path) -> None:
    """Refuse what certainly is no file of samples, by its name.

    Raises:
        FileError: a folder or a table, with what to do.
    """
    if path.is_dir():
        raise FileError(f"{path}: is a folder; give its files")
    if path.suffix.lower() in TABLES:
        raise FileError(
            f"{path}: is a table, not JSON Lines of samples: make them of it first, "
            f"python -m data_tools.sources {path.name} source=table split=… out=….jsonl (docs/data.md)"
        )


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank, without byte-order mark and line ending.

    Of a line beyond LONGEST_LINE only that much is kept in memory, and one byte more, which readers refuse.

    Raises:
        FileError: the file is no text.
    """
    with open_text(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            rest = line
            while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE + 1)
            line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
            if line.strip():
                yield number, line


class JsonError(UserError):
    """Text that is not JSON, or has a duplicate key; the message says so."""


def parse_json(text: bytes | str) -> Any:
    """JSON as users write it. `json.loads` keeps the last value of a key that an object has twice, without a word.

    Raises:
        JsonError: it cannot be read, or an object has a duplicate key.

    Example:
        >>> parse_json('{"id": "a", "answer": "A", "answer": "B"}')
        Traceback (most recent call last):
        data_tools.files.JsonError: duplicate key 'answer', with 'A' and 'B': keep one of them
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except JsonError:
        raise
    except UnicodeDecodeError as error:
        raise JsonError(f"not text in UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise JsonError(f"not JSON: {error}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        first: dict[str, Any] = {}
        for key, value in pairs:
            if key in first:
                raise duplicate_key(key, first[key], value)
            first[key] = value
    return found


def duplicate_key(key: str, first: Any, second: Any) -> JsonError:
    """What is wrong with an object that has a key with two values."""
    values = f"{str(first)[:SHORT]!r} and {str(second)[:SHORT]!r}"
    return JsonError(f"duplicate key {key[:SHORT]!r}, with {values}: keep one of them")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with whole_file(path) as out:
        out.write(text)


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file, readable for humans, or nothing."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def append_line(path: Path, record: Any) -> None:
    """Append a record as one line of JSON, in one write: lines of several processes do not mix."""
    line = json.dumps(record, ensure_ascii=True).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def whole_lines(path: Path) -> list[str]:
    """The lines that were written to their end; none where there is no file."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def lines_from(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its end) of the whole lines from a byte on; what is not yet written to its end is left.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.jsonl")
        ...     _ = path.write_bytes(b"{}\\n[]\\n{")
        ...     list(lines_from(path)), list(lines_from(path, 3))
        ([(0, b'{}\\n'), (3, b'[]\\n')], [(3, b'[]\\n')])
    """
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield start, line
            start += len(line)


def bytes_at(path: Path, start: int, length: int) -> bytes:
    """A part of a file; less where it ends before."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def repair_last_line(path: Path) -> bool:
    """Remove what a killed writer left of its last line; True when there was something to remove."""
    if not path.exists():
        return False
    with path.open("rb+") as file:
        end = start = file.seek(0, os.SEEK_END)
        while start:
            size = min(start, 1 << 16)
            file.seek(start - size)
            newline = file.read(size).rfind(b"\n")
            if newline >= 0:
                start += newline + 1 - size
                break
            start -= size
        file.truncate(start)
    return start < end


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()

"""The index of a run's answers: where each lies in its file, and what it can be filtered and ordered by.

An SQLite file made of the run's JSON lines (`watch/index.sqlite`), which may be deleted. Of a file that has grown the
new lines are read, one that was replaced is read again, and a last line that is half written waits for the next look.
Responses stay in their files: the size of a run costs neither memory nor the browser anything.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import RLock
from typing import Any

from data_tools.files import bytes_at, lines_from
from data_tools.run_folder import RunFolder
from evaluation.viewer.enter import enter
from evaluation.viewer.sources import ROLLOUTS, Source, sources
from rewards.errors import UserError

VERSION = 2  # of the tables
BATCH = 512  # lines
TAIL = 64  # bytes before the place that a file was read to: while they are the same, it has only grown
_TABLES = """
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT UNIQUE, view TEXT, inode INT, size INT, mtime INT, read INT,
  tail BLOB);
CREATE TABLE groups (id INTEGER PRIMARY KEY, view TEXT, step INT, name TEXT, question TEXT, task TEXT, words TEXT,
  file INT, start INT, length INT, n INT DEFAULT 0, score REAL, spread REAL, high REAL, low REAL, right REAL,
  malformed INT DEFAULT 0, mismatch INT DEFAULT 0, unfaithful INT DEFAULT 0, cut INT DEFAULT 0, flipped INT DEFAULT 0,
  twins INT DEFAULT 0, pair TEXT, UNIQUE (view, step, name));
CREATE INDEX of_question ON groups (view, question, step);
CREATE INDEX of_pair ON groups (view, step, pair) WHERE pair IS NOT NULL;
CREATE TABLE asked (view TEXT, control TEXT, question TEXT, file INT, start INT, length INT,
  PRIMARY KEY (view, control, question)) WITHOUT ROWID;
CREATE TABLE answers (id INTEGER PRIMARY KEY, file INT, start INT, length INT, of INT, label TEXT, rank INT,
  control TEXT, score REAL, high REAL, low REAL, right INT, chosen INT, flags INT);
CREATE INDEX of_group ON answers (of);
CREATE INDEX of_file ON answers (file);
CREATE TABLE unread (file INT, start INT, reason TEXT);
"""
_COUNTED = """
UPDATE groups SET (n, score, spread, high, low, right, malformed, mismatch, unfaithful, cut) = (
  SELECT count(*), avg(score), max(score) - min(score), max(high), min(low), avg(right), ifnull(sum(flags & 1 > 0), 0),
    ifnull(sum(flags & 2 > 0), 0), ifnull(sum(flags & 4 > 0), 0), ifnull(sum(flags & 8 > 0), 0)
  FROM answers WHERE of = groups.id AND control = '') WHERE id IN (SELECT id FROM touched)
"""
# Of a prompt: most answers are right where most were wrong when it was asked before (1), or the reverse (-1).
_FLIPPED = """
UPDATE groups SET flipped = ifnull((SELECT (groups.right >= 0.5) - (before.right >= 0.5) FROM groups before
  WHERE before.view = groups.view AND before.question = groups.question AND before.step < groups.step
  ORDER BY before.step DESC LIMIT 1), 0)
WHERE view = :rollouts AND question IN (SELECT question FROM groups WHERE id IN (SELECT id FROM touched))
"""
# Of a prompt: most answers are right where most are wrong that the same question got about the turned clip, or the
# reverse.
_BRANCHES = """
UPDATE groups SET twins = EXISTS (SELECT 1 FROM groups other WHERE other.view = groups.view AND other.step = groups.step
  AND other.pair = groups.pair AND other.id != groups.id AND (other.right >= 0.5) != (groups.right >= 0.5))
WHERE view = :rollouts AND pair IS NOT NULL
  AND (step, pair) IN (SELECT step, pair FROM groups WHERE id IN (SELECT id FROM touched))
"""
# Of a question: the last model is right where the one before it was wrong, or the reverse; and a model chose another
# option for the clip that was turned together with the question, or was right about the clip alone, or the turned one.
_OF_MODELS = """
UPDATE groups SET
  flipped = ifnull((SELECT right FROM answers WHERE of = groups.id AND control = '' ORDER BY rank DESC LIMIT 1) -
    (SELECT right FROM answers WHERE of = groups.id AND control = '' ORDER BY rank DESC LIMIT 1 OFFSET 1), 0),
  twins = EXISTS (SELECT 1 FROM answers one JOIN answers other ON one.of = other.of AND one.label = other.label
    WHERE one.of = groups.id AND one.control = '' AND (
      other.control IN ('mirrored', 'reversed') AND one.chosen IS NOT other.chosen
      OR other.control IN ('mirrored_twin', 'reversed_twin') AND one.right IS NOT other.right))
WHERE view != :rollouts AND id IN (SELECT id FROM touched)
"""
# Groups beyond the first so many of their step and view.
_BEYOND = """
DELETE FROM groups WHERE id IN (SELECT id FROM (
  SELECT id, row_number() OVER (PARTITION BY view, step ORDER BY id) AS place FROM groups WHERE n > 0) WHERE place > ?)
"""


class WatchError(UserError):
    """Answers that cannot be shown; the message says what to do."""


class Index:
    """The index of a run, opened or made.

    Attributes:
        version: changes whenever a refresh found something new.

    Raises:
        WatchError: the index cannot be opened.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.version, self._lock = run, 0, RLock()
        run.watch.mkdir(parents=True, exist_ok=True)
        with self._usable():
            self._db = sqlite3.connect(run.watch_index, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -8000;")  # it can be made anew; KiB
            if self._db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                old = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                drops = "".join(f"DROP TABLE {table['name']};" for table in old)
                self._db.executescript(f"BEGIN IMMEDIATE; {drops} {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
            self._db.execute("CREATE TEMP TABLE touched (id INTEGER PRIMARY KEY)")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Raises WatchError where SQLite cannot use the file."""
        try:
            yield
        except sqlite3.Error as error:
            folder = self.run.watch
            raise WatchError(f"{self.run.watch_index}: {error}. Delete {folder}: it is made anew") from error

    def close(self) -> None:
        self._db.close()

    def rows(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def beside(self, other: "Index") -> Iterator[None]:
        """The tables of another run's index, or of this one once more, as `beside.groups`."""
        with self._lock:
            self._db.execute("ATTACH DATABASE ? AS beside", [str(other.run.watch_index)])
            try:
                yield
            finally:
                self._db.execute("DETACH DATABASE beside")

    @contextmanager
    def excerpt(self, steps: int, groups: int) -> Iterator[None]:
        """Within it the index holds a part alone: so many steps of the training, evenly spaced, and the first so many
        groups of each of them and of each set."""
        with self._lock, self._usable():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                sql = "SELECT DISTINCT step FROM groups WHERE view = ? AND n > 0 ORDER BY step"
                numbers = [row["step"] for row in self.rows(sql, [ROLLOUTS])]
                kept = {numbers[place * (len(numbers) - 1) // max(steps - 1, 1)] for place in range(steps) if numbers}
                for step in set(numbers) - kept:
                    self._db.execute("DELETE FROM groups WHERE view = ? AND step = ?", [ROLLOUTS, step])
                self._db.execute(_BEYOND, [groups])
                yield
            finally:
                self._db.execute("ROLLBACK")

    # ---------------------------------------------------------------- refresh

    def refresh(self, progress: Callable[[int], object] = lambda done: None) -> bool:
        """Take in what is new in the run's files; True where there was anything.

        Args:
            progress: is called with the number of lines read so far.

        Raises:
            RunError: a file of the evaluation that cannot be read. WatchError: the index cannot be used.
        """
        with self._lock, self._usable():
            found, done = list(sources(self.run)), 0
            changed = self._reset(found)
            for source in found:
                if self._start(source) is None:
                    continue
                with self._transaction():
                    start = self._start(source)  # again: another viewer of the run may have read it by now
                    for count in self._read(source, start) if start is not None else ():
                        done += count
                        progress(done)
                changed = True
            self.version += changed
            return changed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _reset(self, found: Sequence[Source]) -> bool:
        """Forget files that are gone; and all of a view whose questions were replaced, since answers depend on them."""
        there = {str(source.path) for source in found}
        gone = [row["id"] for row in self.rows("SELECT id, path FROM files") if row["path"] not in there]
        views = {each.view for each in found if each.kind == "questions" and self._start(each) == 0}
        files = [*gone, *(row["id"] for row in self.rows("SELECT id, view FROM files") if row["view"] in views)]
        if files:
            with self._transaction():
                self._db.execute("DELETE FROM touched")
                for file in files:
                    self._forget(file)
                    self._db.execute("DELETE FROM files WHERE id = ?", [file])
                self._count()
        return bool(files)

    def _start(self, source: Source) -> int | None:
        """The byte to read a file from; None where it has nothing new."""
        known = self.rows("SELECT * FROM files WHERE path = ?", [str(source.path)])
        if not known:
            return 0
        row, now = known[0], _state(source.path)
        if now == (row["inode"], row["size"], row["mtime"]):
            return None
        read: int = row["read"]
        grew = now[0] == row["inode"] and now[1] >= read and _tail(source.path, read) == row["tail"]
        return read if grew else 0

    def _read(self, source: Source, start: int) -> Iterator[int]:
        """Enter the lines of a file from a byte on; gives how many at a time."""
        state, read = _state(source.path), start
        name = [str(source.path), source.view]
        self._db.execute("INSERT OR IGNORE INTO files (path, view, read) VALUES (?, ?, 0)", name)
        file = self.rows("SELECT id FROM files WHERE path = ?", name[:1])[0]["id"]
        self._db.execute("DELETE FROM touched")
        if start == 0:
            self._forget(file)
        lines = lines_from(source.path, start)
        while batch := list(islice(lines, BATCH)):
            enter(self._db, source, file, batch)
            read = batch[-1][0] + len(batch[-1][1])
            yield len(batch)
        self._count()
        values = [*state, read, _tail(source.path, read), file]
        self._db.execute("UPDATE files SET inode = ?, size = ?, mtime = ?, read = ?, tail = ? WHERE id = ?", values)

    def _forget(self, file: int) -> None:
        """What was entered of a file."""
        self._db.execute("INSERT OR IGNORE INTO touched SELECT DISTINCT of FROM answers WHERE file = ?", [file])
        for table in ("answers", "groups", "asked", "unread"):
            self._db.execute(f"DELETE FROM {table} WHERE file = ?", [file])

    def _count(self) -> None:
        """What groups have of the answers that were touched."""
        self._db.execute(_COUNTED)
        self._db.execute(_FLIPPED, {"rollouts": ROLLOUTS})
        self._db.execute(_BRANCHES, {"rollouts": ROLLOUTS})
        self._db.execute(_OF_MODELS, {"rollouts": ROLLOUTS})


def _state(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _tail(path: Path, end: int) -> bytes:
    start = max(0, end - TAIL)
    return bytes_at(path, start, end - start)

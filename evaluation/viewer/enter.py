"""Enter lines of a run's files into the tables of the index (`evaluation.viewer.index`)."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.files import bytes_at
from data_tools.sample import Sample
from evaluation.grading import Graded, grade
from evaluation.predictions import Prediction
from evaluation.rollouts.records import Rollout
from evaluation.viewer.facts import Facts, of_prediction, of_rollout, record_of, thought_leads
from evaluation.viewer.sources import Source
from rewards.relation import pair_of

Line = tuple[int, bytes]  # where it starts, and the line
Place = tuple[int, int, int]  # file, start, length


def enter(db: sqlite3.Connection, source: Source, file: int, lines: Sequence[Line]) -> None:
    """Enter lines of a file; one that is no record is kept in the table `unread`, with the reason."""
    rows = {"rollouts": _rollouts, "questions": _questions, "predictions": _predictions}[source.kind]
    rows(db, source, file, lines)


def _rollouts(db: sqlite3.Connection, source: Source, file: int, lines: Sequence[Line]) -> None:
    groups: dict[str, int] = {}
    answers: list[tuple[Any, ...]] = []
    for start, line in lines:
        place = (file, start, len(line))
        try:
            rollout = record_of(Rollout, line)
            of = groups.get(rollout.group) or _group(db, source.view, source.step, rollout.group)
            of = of or _new_group(db, source, rollout.group, record_of(Sample, rollout.sample), place)
            groups[rollout.group] = of
            answers.append((*place, of, *of_rollout(rollout)))
        except ValueError as error:
            _unread(db, place, error)
    _answers(db, answers)


def _questions(db: sqlite3.Connection, source: Source, file: int, lines: Sequence[Line]) -> None:
    for start, line in lines:
        place = (file, start, len(line))
        try:
            sample = record_of(Sample, line)
        except ValueError as error:
            _unread(db, place, error)
            continue
        row = (source.view, source.control, sample.id, *place)
        db.execute("INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?, ?, ?)", row)
        if not source.control:
            _new_group(db, source, sample.id, sample, place)


def _predictions(db: sqlite3.Connection, source: Source, file: int, lines: Sequence[Line]) -> None:
    graded: list[tuple[Place, Graded]] = []
    for start, line in lines:
        place = (file, start, len(line))
        try:
            prediction = record_of(Prediction, line)
            graded.append((place, grade(_asked(db, source, prediction.id), prediction, source.schema)))
        except ValueError as error:
            _unread(db, place, error)
    verdicts, answers = asyncio.run(_verdicts([j for _, j in graded])), []
    for (place, j), leads in zip(graded, verdicts):
        of = _group(db, source.view, 0, j.sample.id)
        assert of is not None, "a question has its group"
        answers.append((*place, of, *of_prediction(source.model, source.rank, source.control, j, leads)))
    _answers(db, answers)


async def _verdicts(graded: Sequence[Graded]) -> list[bool | None]:
    return [await thought_leads(j) for j in graded]


def _asked(db: sqlite3.Connection, source: Source, id: str) -> Sample:
    """The question that a prediction answers."""
    sql = """SELECT path, start, length FROM asked JOIN files ON files.id = file
        WHERE asked.view = ? AND control = ? AND question = ?"""
    found = db.execute(sql, [source.view, source.control, id]).fetchone()
    if found is None:
        raise ValueError(f"id: {id!r} is not the id of a question that was asked")
    return record_of(Sample, bytes_at(Path(found["path"]), found["start"], found["length"]))


def _group(db: sqlite3.Connection, view: str, step: int, name: str) -> int | None:
    sql = "SELECT id FROM groups WHERE view = ? AND step = ? AND name = ?"
    found = db.execute(sql, [view, step, name]).fetchone()
    return found and int(found["id"])


def _new_group(db: sqlite3.Connection, source: Source, name: str, sample: Sample, place: Place) -> int:
    motion = str(sample.extras.get("motion", "")).replace("_", " ")
    words = " ".join((sample.id, sample.question, sample.gold, motion, sample.task.replace("_", " "))).lower()
    pair = str(pair_of(name)) if "counterpart" in sample.extras else None
    row = (source.view, source.step, name, sample.id, sample.task, words, *place, pair)
    names = "view, step, name, question, task, words, file, start, length, pair"
    sql = f"INSERT INTO groups ({names}) VALUES ({', '.join('?' * len(row))})"
    made = db.execute(sql, row).lastrowid
    assert made is not None, "a row was inserted"
    return made


def _answers(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows of place, group and facts."""
    names = ("file", "start", "length", "of", *Facts._fields)
    sql = f"INSERT INTO answers ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    db.executemany(sql, rows)
    db.executemany("INSERT OR IGNORE INTO touched VALUES (?)", [[of] for of in {row[3] for row in rows}])


def _unread(db: sqlite3.Connection, place: Place, error: ValueError) -> None:
    db.execute("INSERT INTO unread VALUES (?, ?, ?)", [place[0], place[1], str(error)])

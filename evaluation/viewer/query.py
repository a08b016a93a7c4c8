"""Which groups of answers a page asks for, and what the steps of a run hold."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation.rollouts.records import EQUAL
from evaluation.viewer.index import Index

PAGE = 50  # groups in an answer, at most

Filter = Literal["all", "malformed", "mismatch", "unfaithful", "flipped", "twins", "cut", "split", "flat", "differs"]
Order = Literal["recorded", "highest", "lowest", "spread", "worst", "best"]
# Conditions on groups of answers.
CONDITIONS: dict[str, str] = {
    "all": "n > 0",
    "malformed": "malformed > 0",
    "mismatch": "mismatch > 0",
    "unfaithful": "unfaithful > 0",
    "flipped": "flipped != 0",
    "twins": "twins != 0",
    "cut": "cut > 0",
    "split": f"spread >= {EQUAL}",
    "flat": f"n > 1 AND spread < {EQUAL}",
}
ORDERS: dict[str, str] = {
    "recorded": "step, id",
    "highest": "high DESC, step, id",
    "lowest": "low, step, id",
    "spread": "spread DESC, step, id",
    "worst": "score, step, id",
    "best": "score DESC, step, id",
}
DIFFERS = """EXISTS (SELECT 1 FROM beside.groups there WHERE there.view = groups.view AND there.n > 0
  AND there.question = groups.question AND there.step = ifnull(:there, groups.step)
  AND (there.right >= 0.5) != (groups.right >= 0.5))"""
assert {*CONDITIONS, "differs"} == set(get_args(Filter)) and set(ORDERS) == set(get_args(Order))


class Query(BaseModel):
    """What a page asks for.

    Attributes:
        view: rollouts, or a set.
        step: of the training; None: all.
        only: the filter.
        text: in the question, its id, task, right answer or motion.
        beside, there: number of the run that is shown beside this one, and its step; None: no run, the same step. The
            filter `differs` takes the questions that are mostly right here and mostly wrong there, or the reverse.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    view: str
    step: int | None = None
    only: Filter = "all"
    order: Order = "recorded"
    task: str = ""
    text: str = Field("", max_length=200)
    beside: int | None = Field(None, ge=0)
    there: int | None = None
    offset: int = Field(0, ge=0, lt=1 << 53)
    limit: int = Field(12, ge=1, le=PAGE)

    @model_validator(mode="after")
    def _differs_from_something(self) -> "Query":
        if self.only == "differs" and self.beside is None:
            raise ValueError("only=differs: give the run beside=")
        return self

    def where(self) -> tuple[str, dict[str, Any]]:
        """Its condition but for the filter, in SQL, and the values of it."""
        words = {f"word{number}": word for number, word in enumerate(self.text.lower().split())}
        values = {"view": self.view, "step": self.step, "task": self.task, "there": self.there}
        parts = ["n > 0", "view = :view", *(["step = :step"] if self.step is not None else [])]
        parts += [*(["task = :task"] if self.task else []), *(f"instr(words, :{name}) > 0" for name in words)]
        return " AND ".join(parts), values | words


def find(indexes: Sequence[Index], run: int, query: Query) -> tuple[list[int], dict[str, int]]:
    """The groups of a page, by id and in order, and how many there are in all by each filter.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from data_tools.run_folder import RunFolder
        >>> with TemporaryDirectory() as folder:
        ...     ids, counts = find([Index(RunFolder(Path(folder)))], 0, Query(view="rollouts", only="malformed"))
        >>> ids, counts["malformed"]
        ([], 0)
    """
    index = indexes[run]
    with nullcontext() if query.beside is None else index.beside(indexes[query.beside]):
        return ids_of(index, query, query.limit), counts_of(index, query)


def ids_of(index: Index, query: Query, most: int) -> list[int]:
    """Groups from `query.offset` on, in order."""
    where, values = query.where()
    condition = DIFFERS if query.only == "differs" else CONDITIONS[query.only]
    sql = f"SELECT id FROM main.groups WHERE {where} AND {condition} ORDER BY {ORDERS[query.order]}"
    return [row["id"] for row in index.rows(f"{sql} LIMIT {most} OFFSET {query.offset}", values)]


def counts_of(index: Index, query: Query) -> dict[str, int]:
    """Groups by filter, whichever is chosen."""
    where, values = query.where()
    conditions = CONDITIONS if query.beside is None else CONDITIONS | {"differs": DIFFERS}
    sums = ", ".join(f'ifnull(sum({condition}), 0) AS "{name}"' for name, condition in conditions.items())
    return dict(index.rows(f"SELECT {sums} FROM main.groups WHERE {where}", values)[0])


def overview(index: Index) -> list[dict[str, Any]]:
    """The views of a run: `name`, `tasks`, and per step what it holds in numbers; a set has one step, 0."""
    sums = ", ".join(f"sum({CONDITIONS[name]}) AS {name}" for name in ("flipped", "split"))
    answers = "sum(n) AS answers, sum(n * score) / sum(n) AS score, sum(n * right) / sum(n) AS right"
    flags = ", ".join(f"sum({name}) AS {name}" for name in ("malformed", "mismatch", "unfaithful", "cut"))
    rows = index.rows(
        f"SELECT view, step, count(*) AS groups, {answers}, {flags}, {sums} FROM groups WHERE n > 0 "
        "GROUP BY view, step ORDER BY view, step"
    )
    tasks = index.rows("SELECT DISTINCT view, task FROM groups ORDER BY view, task")
    views = list(dict.fromkeys(row["view"] for row in rows))
    return [
        {
            "name": view,
            "tasks": [row["task"] for row in tasks if row["view"] == view],
            "steps": [{key: row[key] for key in row.keys() if key != "view"} for row in rows if row["view"] == view],
        }
        for view in views
    ]


def unread(index: Index, named: int = 3) -> tuple[int, list[str]]:
    """How many lines of the run's files are no records, and the first of them: file, byte and reason."""
    count: int = index.rows("SELECT count(*) FROM unread")[0][0]
    first = index.rows("SELECT path, start, reason FROM unread JOIN files ON files.id = file LIMIT ?", [named])
    return count, [f"{row['path']}, byte {row['start']}: {row['reason']}" for row in first]

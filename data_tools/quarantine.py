"""Records that are left out, each with the reason: counts in = counts out + quarantined."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from data_tools.files import whole_lines


@dataclass(frozen=True)
class Rejected:
    """A line of a quarantine: the file and the record in it, the field, and what is wrong with it.

    Attributes:
        record: its sample's id; before a sample could be read its line, or its place in a published file.
        id: that a record names which is left out by its line; "" if it names none.
    """

    file: str
    record: str
    field: str
    reason: str
    id: str = ""


class Quarantine:
    """Writes and counts the records that are left out, in all and by field; `first` is the first of each field."""

    def __init__(self, out: IO[str]) -> None:
        self.count = 0
        self.fields: Counter[str] = Counter()
        self.first: dict[str, Rejected] = {}
        self._out = out

    def add(self, rejected: Rejected) -> None:
        self.count += 1
        self.fields[rejected.field] += 1
        self.first.setdefault(rejected.field, rejected)
        written = {name: value for name, value in asdict(rejected).items() if value or name != "id"}
        self._out.write(json.dumps(written, ensure_ascii=False) + "\n")


def read_rejected(path: Path) -> list[Rejected]:
    """The lines of a quarantine."""
    return [Rejected(**json.loads(line)) for line in whole_lines(path)]

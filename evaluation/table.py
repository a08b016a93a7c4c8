"""A results table that cannot be built without what a reader needs, and its five output formats.

Every table names its metrics and how they are averaged, gives n, failures, malformed responses and an interval with
every measured number, and has trivial baselines. A table that lacks one of these is an error.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup, escape
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from data_tools.files import write_text
from evaluation.measures.bootstrap import Estimate
from rewards.errors import UserError

Kind = Literal["result", "baseline", "paper"]
PAPER = "†"


class TableError(UserError):
    """A table that lacks what a reader needs; the message names what is missing."""


@dataclass(frozen=True)
class Metric:
    """One column.

    Attributes:
        name: as in its header.
        averaging: over what, e.g. "micro: over questions".
        scale: 100 shows percent, 1 the number itself.
        paper: the source of a paper's own figures, e.g. "CamReasoner, Table 4"; empty for measured values.
    """

    name: str
    averaging: str
    scale: float = 100
    paper: str = ""

    @property
    def header(self) -> str:
        return f"{self.name}{PAPER}" if self.paper else self.name


@dataclass(frozen=True)
class Row:
    """One line: a model, a part of the questions, a trivial baseline, or figures of a paper.

    Attributes:
        values: one per metric; None where it is undefined or was not measured.
        n: questions; None in a line of a paper.
        failures: missing, failed and unjudged ones; they count as wrong.
        malformed: responses that break their schema or name no option; they count as wrong.
    """

    name: str
    values: tuple[Estimate | None, ...]
    n: int | None = None
    failures: int | None = None
    malformed: int | None = None
    kind: Kind = "result"


@dataclass(frozen=True)
class Table:
    """Rows x metrics.

    Attributes:
        name: of its files.
        interval: how intervals were made, e.g. `Resamples.caption()`.
        settings: hash of everything that the numbers depend on, see `settings_hash`.
        note: further facts that a reader must know.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    interval: str
    settings: str
    note: str = ""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise TableError unless the table has everything that a reader needs."""
        missing = [text for text in ("name", "title", "interval") if not getattr(self, text).strip()]
        if not re.fullmatch(r"[0-9a-f]{12}", self.settings):
            missing.append("settings hash")
        missing += [f"averaging of {m.name!r}" for m in self.metrics if not (m.name.strip() and m.averaging.strip())]
        if not self.metrics or not any(row.kind == "result" for row in self.rows):
            missing.append("results")
        ours = [i for i, metric in enumerate(self.metrics) if not metric.paper]
        if ours and not any(row.kind == "baseline" and any(row.values[i] for i in ours) for row in self.rows):
            missing.append("trivial baseline")
        for row in self.rows:
            if len(row.values) != len(self.metrics):
                missing.append(f"one value per metric in {row.name!r}")
            elif row.kind == "result" and (measured := [row.values[i] for i in ours if row.values[i]]):
                if None in (row.n, row.failures, row.malformed):
                    missing.append(f"n, failures and malformed of {row.name!r}")
                if any(value is None or value.low is None for value in measured):
                    missing.append(f"interval of {row.name!r}")
        if missing:
            raise TableError(f"table {self.name or self.title!r} lacks: {'; '.join(missing)}")

    @property
    def caption(self) -> str:
        """The text below the table in every format."""
        averaging: dict[str, list[str]] = {}
        for metric in self.metrics:
            averaging.setdefault(metric.paper or metric.averaging, []).append(metric.header)
        parts = [f"{', '.join(names)}: {how}" for how, names in averaging.items()]
        if any(metric.paper for metric in self.metrics):
            parts.append(f"{PAPER} the paper's own figures, of other models on other data: not comparable")
        parts.append(f"[low, high]: {self.interval}")
        parts.append("failures and malformed responses count as wrong")
        if self.note:
            parts.append(self.note)
        return ". ".join(part.rstrip(".") for part in parts) + f". Settings {self.settings}."

    def cells(self) -> Iterable[tuple[Row, list[str]]]:
        """Each row with its texts: name, n, failures, malformed, one per metric."""
        for row in self.rows:
            counts = ["–" if count is None else f"{count:,}" for count in (row.n, row.failures, row.malformed)]
            shown = [shown_value(value, metric) for value, metric in zip(row.values, self.metrics)]
            yield row, [" ".join(row.name.split()), *counts, *shown]

    @property
    def header(self) -> list[str]:
        return ["", "n", "failures", "malformed", *(metric.header for metric in self.metrics)]


def shown_value(value: Estimate | None, metric: Metric) -> str:
    """'63.2 [60.1, 66.0]' in the metric's scale; a dash for None."""
    if value is None:
        return "–"
    digits = 1 if metric.scale == 100 else 3
    numbers = [value.value, value.low, value.high]
    shown = [f"{number * metric.scale:.{digits}f}" for number in numbers if number is not None]
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---------------------------------------------------------------- formats


def rich(table: Table, width: int = 120) -> Group:
    """For a terminal of `width` columns; columns that do not fit are shown below, so that nothing is cut."""
    table.check()
    rows = list(table.cells())
    counts, metrics, blocks = list(range(1, 4)), list(range(4, len(table.header))), []
    while metrics or counts:
        room = max(1, (width - 22 - 11 * len(counts)) // 15)
        blocks.append([0, *counts, *metrics[:room]])
        counts, metrics = [], metrics[room:]
    shown = []
    for number, columns in enumerate(blocks):
        block = RichTable(title=None if number else escape_rich(table.title))
        for column in columns:
            block.add_column(escape_rich(table.header[column]), justify="right" if column else "left", overflow="fold")
        for row, cells in rows:
            # The interval goes below its number, since a terminal is narrow.
            two_lines = [escape_rich(cells[column].replace(" [", "\n[")) for column in columns]
            block.add_row(*two_lines, style="dim" if row.kind != "result" else None)
        shown.append(block)
    return Group(*shown, Text(table.caption, style="dim"))


def escape_rich(text: str) -> str:
    return text.replace("[", r"\[")


def markdown(table: Table) -> str:
    table.check()
    lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)]]
    lines += [[f"*{cells[0]}*" if row.kind != "result" else cells[0], *cells[1:]] for row, cells in table.cells()]
    body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return f"### {table.title}\n\n{body}\n\n{table.caption}\n"


def as_csv(table: Table) -> str:
    """One line per row and metric with unrounded numbers; the caption is in the columns."""
    table.check()
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("row", "kind", "metric", "value", "low", "high", "n", "failures", "malformed", "averaging", "source")
    writer.writerow([*head, "interval", "settings"])
    for row in table.rows:
        counts = ["" if count is None else count for count in (row.n, row.failures, row.malformed)]
        for metric, value in zip(table.metrics, row.values):
            numbers = [value.value, value.low, value.high] if value else [None] * 3
            shown = ["" if number is None else repr(number) for number in numbers]
            how = [metric.averaging, metric.paper or "measured", table.interval, table.settings]
            cells = [" ".join(row.name.split()), row.kind, metric.name, *shown, *counts, *how]
            writer.writerow([cell if 3 <= place < 9 else _no_formula(str(cell)) for place, cell in enumerate(cells)])
    return out.getvalue()


def _no_formula(text: str) -> str:
    """A cell that a spreadsheet takes for text: names may be a label file's."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


_LATEX = str.maketrans(
    {c: "\\" + c for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    | {PAPER: r"$^\dagger$", "λ": r"$\lambda$", "Δ": r"$\Delta$", "≥": r"$\geq$", "→": r"$\to$", "×": r"$\times$"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def latex(table: Table) -> str:
    """A booktabs table; rows of baselines and papers in italics."""
    table.check()

    def line(cells: list[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    rows = [("" if row.kind == "result" else r"\itshape ") + line(cells) for row, cells in table.cells()]
    body = "\n".join(rows)
    return rf"""\begin{{table}}
\centering\small
\begin{{tabular}}{{l{"r" * (len(table.header) - 1)}}}
\toprule
{line(table.header)}
\midrule
{body}
\bottomrule
\end{{tabular}}
\caption{{{table.title.translate(_LATEX)}. {table.caption.translate(_LATEX)}}}
\label{{tab:{re.sub(r"[^a-z0-9]+", "-", table.name.lower())}}}
\end{{table}}
"""


def html(table: Table) -> Markup:
    """A table element; every text escaped."""
    table.check()
    head = Markup("").join(Markup("<th>{}</th>" if name else "<td>{}</td>").format(name) for name in table.header)
    body = []
    for row, cells in table.cells():
        first = Markup("<th>{}</th>").format(cells[0])
        pairs = [cell.partition(" [") for cell in cells[1:]]
        rest = Markup("").join(
            Markup("<td>{} <small>[{}</small></td>").format(value, interval)
            if mark
            else Markup("<td>{}</td>").format(value)
            for value, mark, interval in pairs
        )
        body.append(Markup('<tr class="{}">{}{}</tr>').format(row.kind, first, rest))
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody><caption>{}</caption></table>").format(
        head, Markup("\n").join(body), escape(table.caption)
    )


FORMS = {"md": markdown, "csv": as_csv, "tex": latex}


def write_tables(folder: Path, tables: Iterable[Table]) -> list[Path]:
    """Each table as Markdown, CSV and LaTeX in `folder`."""
    paths = []
    for table in tables:
        for suffix, form in FORMS.items():
            path = folder / f"{table.name}.{suffix}"
            write_text(path, form(table))
            paths.append(path)
    return paths


def as_json(table: Table) -> dict[str, Any]:
    """The whole table, ready for JSON."""
    return asdict(table)

import csv
from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evaluation.measures.bootstrap import Estimate
from evaluation.table import (
    Metric,
    Row,
    Table,
    TableError,
    as_csv,
    html,
    latex,
    markdown,
    rich,
    settings_hash,
    write_tables,
)

MODEL = Row("model <b>& 5 % | [x]", (Estimate(0.5, 0.4, 0.625),), 10, 1, 2)
BASELINE = Row("always No", (Estimate(0.877),), 10, 0, 0, "baseline")
FIELDS = {
    "name": "binary",
    "title": "A title",
    "metrics": (Metric("accuracy", "micro: over questions"),),
    "rows": (MODEL, BASELINE),
    "interval": "95 % bootstrap over 4 videos",
    "settings": settings_hash({"seed": 0}),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": (MODEL,)}, "trivial baseline"),
        ({"rows": (BASELINE,)}, "results"),
        ({"interval": " "}, "interval"),
        ({"settings": "none"}, "settings hash"),
        ({"title": ""}, "title"),
        ({"metrics": (Metric("accuracy", ""),)}, "averaging of 'accuracy'"),
        ({"rows": (Row("model", (Estimate(0.5),), 10, 1, 2), BASELINE)}, "interval of 'model'"),
        ({"rows": (Row("model", (Estimate(0.5, 0, 1),), None, 1, 2), BASELINE)}, "n, failures and malformed"),
        ({"rows": (Row("model", (), 10, 1, 2), BASELINE)}, "one value per metric"),
    ],
)
def test_a_table_is_refused_without_what_makes_it_readable(change, message):
    with pytest.raises(TableError, match=message):
        Table(**FIELDS | change)


KINDS = ("result", "baseline")


def test_a_table_that_lost_something_later_is_not_rendered():
    table = Table(**FIELDS)
    object.__setattr__(table, "rows", (MODEL,))
    for form in (rich, markdown, as_csv, latex, html):
        with pytest.raises(TableError):
            form(table)


def test_every_form_shows_numbers_counts_baselines_and_settings(tmp_path):
    table = Table(**FIELDS)
    console = Console(width=200, record=True, file=StringIO())
    console.print(rich(table))
    texts = [console.export_text(), markdown(table), latex(table), str(html(table))]
    for text in texts:
        for said in ("accuracy", "50.0", "[40.0, 62.5]", "always No", "87.7", "micro: over questions", table.settings):
            assert said in text
    assert [path.name for path in write_tables(tmp_path, [table])] == ["binary.md", "binary.csv", "binary.tex"]
    rows = list(csv.DictReader((tmp_path / "binary.csv").open()))
    assert [(r["kind"], r["value"], r["low"], r["high"], r["n"]) for r in rows] == [
        ("result", "0.5", "0.4", "0.625", "10"),
        ("baseline", "0.877", "", "", "10"),
    ]
    assert rows[0]["row"] == MODEL.name
    assert rows[0]["settings"] == table.settings


def test_a_narrow_terminal_cuts_no_column():
    metrics = tuple(Metric(f"metric {i}", "micro") for i in range(9))
    rows = tuple(
        Row(f"{kind} row", tuple(Estimate(i / 9, 0.1, 0.2) for i in range(9)), 7, 0, 0, kind) for kind in KINDS
    )
    console = Console(width=80, record=True, file=StringIO())
    console.print(rich(Table(**FIELDS | {"metrics": metrics, "rows": rows}), console.width))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    assert all(f"metric {i}" in text and text.count(f"{100 * i / 9:.1f}") >= 2 for i in range(9))


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)"])
def test_a_name_is_no_formula_of_a_spreadsheet(name):
    row = FIELDS["rows"][0]
    text = as_csv(Table(**FIELDS | {"rows": (replace(row, name=name), *FIELDS["rows"][1:])}))
    assert f"\n'{name}," in text and f"\n{name}" not in text


def test_names_are_escaped():
    table = Table(**FIELDS)
    assert "&lt;b&gt;&amp; 5 % | [x]" in html(table)
    assert r"model <b>& 5 % \| [x]" in markdown(table)
    assert r"model \textless{}b\textgreater{}\& 5 \% | [x]" in latex(table)


def test_figures_of_a_paper_are_marked():
    metrics = (*FIELDS["metrics"], Metric("Binary Avg.", "as printed", 100, "A Paper, Table 3"))
    rows = (
        Row("model", (Estimate(0.5, 0.4, 0.6), Estimate(0.784)), 10, 0, 0),
        Row("always No", (Estimate(0.877), None), 10, 0, 0, "baseline"),
        Row("not run", (None, Estimate(0.68)), kind="paper"),
    )
    text = markdown(Table(**FIELDS | {"metrics": metrics, "rows": rows}))
    assert "Binary Avg.†" in text
    assert "A Paper, Table 3: Binary Avg.†" not in text.splitlines()[0]
    assert "† the paper's own figures" in text
    assert "| *not run* | – | – | – | – | 68.0 |" in text


@given(st.text(max_size=40))
def test_any_name_renders_in_any_form(name):
    row = Row(name, (Estimate(0.5, 0.4, 0.6),), 1, 0, 0)
    table = Table(**FIELDS | {"rows": (row, BASELINE)})
    assert len(list(csv.reader(StringIO(as_csv(table), newline="")))) == 3
    assert "<script" not in html(Table(**FIELDS | {"rows": (Row(f"<script>{name}", row.values, 1, 0, 0), BASELINE)}))
    Console(width=80, file=StringIO()).print(rich(table))
    assert latex(table).count(r"\\") >= 3

"""The viewer's page and its data as one description; served (`server.py`) or written to a folder (`folder.py`)."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template

from data_tools.templates import template
from evaluation.viewer.index import Index
from evaluation.viewer.query import overview, unread

_HERE = Path(__file__).parent


@cache
def _template(name: str) -> Template:
    return template(_HERE / name, _HERE.parent / "report")  # the style is the report's


def page(live: bool, report: str | None = None) -> str:
    """The page; it asks a server for data, or reads the folder that it lies in. `report`: see `folder.write_folder`."""
    return _template("viewer.html.j2").render(live=live, report=report)


def _script(name: str) -> tuple[str, str]:
    return (_HERE / name).read_text(encoding="utf-8"), "text/javascript"


# What the page loads besides its data: name -> text and media type.
FILES: dict[str, Callable[[], tuple[str, str]]] = {
    "data.js": lambda: _script("data.js"),
    "viewer.js": lambda: _script("viewer.js"),
    "viewer.css": lambda: (_template("viewer.css.j2").render(), "text/css"),
}


def description(indexes: Sequence[Index]) -> dict[str, Any]:
    """What the runs hold, and which lines of theirs could not be read."""
    runs = []
    for index in indexes:
        root = index.run.root.resolve()
        count, first = unread(index)
        name = f"{root.parent.name} / {root.name}"
        runs.append({"name": name, "views": overview(index), "unread": count, "first_unread": first})
    return {"runs": runs}

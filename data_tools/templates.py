"""Templates of pages, scripts and cards, which lie beside the modules that fill them."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(path: Path, *others: Path, escape: bool = True, **filters: Any) -> Template:
    """The template in a file; a name that it is not given is an error.

    Args:
        others: folders of what it includes, besides its own.
        escape: False for what is not HTML; what a model or a user wrote must never become HTML.
        filters: of its own, by name.
    """
    folders = FileSystemLoader([path.parent, *others])
    environment = Environment(
        loader=folders, autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.get_template(path.name)

"""A console that shows texts from elsewhere as they are: they steer no terminal, and only our tags are markup."""

import re
from collections.abc import Iterable
from typing import Any

from rich import console as rich
from rich.segment import Segment
from rich.text import Text

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # ESC and its kin: titles, colours, a cleared screen
_NOT_OURS = re.compile(r"(?<!\\)\[(?!(?:/|bold|bold red|green|yellow)\])")


class Console(rich.Console):
    r"""As rich's, for names of files, what models wrote, and errors that repeat either.

    Example:
        >>> from io import StringIO
        >>> out = StringIO()
        >>> Console(file=out).print("[bold]data[/] → runs/[old]/:fire:\x1b]0;mine\x07")
        >>> out.getvalue()
        'data → runs/[old]/:fire:]0;mine\n'
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        marked_up = settings.get("markup") is not False
        return super().render_str(_NOT_OURS.sub(r"\\[", text) if marked_up else text, **settings)

    def render(self, renderable: rich.RenderableType, options: rich.ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_STEERING.sub("", segment.text), segment.style)

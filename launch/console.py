"""Output: the console, progress bars, errors as one message."""

import os
import sys
from typing import TYPE_CHECKING

from data_tools.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on without output: whoever read it has gone (`| head`), and rich would end the stage."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Console(highlight=False)


def progress_bar() -> "Progress":
    """One line: what, bar, done of total, elapsed, left."""
    from rich import progress as rich

    columns = [rich.TextColumn("  {task.description}"), rich.BarColumn(), rich.MofNCompleteColumn()]
    columns += [rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn()]
    return rich.Progress(*columns, console=console)

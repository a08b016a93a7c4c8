"""The errors that a user can mend, shown as one message instead of a traceback."""

from rich.console import Console


class LaunchError(RuntimeError):
    """A stage that cannot go on; the message says what to do."""


def _known() -> tuple[type[BaseException], ...]:
    from data_tools.exports import ExportError
    from data_tools.rendered import RenderedError
    from data_tools.sample import SampleError
    from launch.recipe import RecipeError

    return (LaunchError, RecipeError, SampleError, ExportError, RenderedError, FileNotFoundError, OSError)


KNOWN_ERRORS = _known()


def explain(error: BaseException) -> None:
    """Print the message on the standard error stream."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold red]error[/]", end=" ")
    console.print(str(error), markup=False)

"""The errors that a user can mend, shown as one message instead of a traceback."""

import errno
import sys


class LaunchError(RuntimeError):
    """A stage that cannot go on; the message says what to do."""


# Errors of the folders that import nothing of `launch`; named, since importing them costs a second.
_ELSEWHERE = {
    "evaluation.analyses": "RecordError",
    "evaluation.benchmarks.base": "LabelError",
    "evaluation.cli": "UsageError",
    "evaluation.report": "ReportError",
    "evaluation.score": "PredictionError",
    "evaluation.table": "TableError",
    "data_tools.exports": "ExportError",
    "data_tools.media": "MediaError",
    "data_tools.parallel": "WorkerError",
    "data_tools.probe": "ClipError",
    "data_tools.rendered": "RenderedError",
    "data_tools.sample": "SampleError",
    "data_tools.sources.source": "SourceError",
    "data_tools.splits": "SplitError",
    "launch.nodes": "ClusterError",
    "launch.recipe": "RecipeError",
    "rewards.endpoint": "EndpointError",
    "rewards.judge": "JudgeError",
    "rewards.maths": "MathsError",
    "rewards.segments": "SegmentError",
    "rewards.tasks": "TaskError",
}


def known_errors() -> tuple[type[BaseException], ...]:
    """For an `except` clause: a module that has not been imported cannot have raised."""
    elsewhere = [getattr(sys.modules.get(module), name, None) for module, name in _ELSEWHERE.items()]
    return (LaunchError, OSError, *filter(None, elsewhere))


def explain(error: BaseException) -> None:
    """Print the message on the standard error stream."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold red]error[/]", end=" ")
    console.print(str(error), markup=False)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        console.print("the disk is full: free some space, then run the same command again; it goes on where it stopped")

"""Adapters merged into the weights that they were trained on, so that every later stage gets a whole model."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from data_tools.files import whole_folder
from launch.engines.watch import run_engine
from launch.models import require_trained
from launch.run import Run


def merge_adapters(run: Run, start: str, targets: Mapping[Path, Path], log: Path, why: str = "") -> None:
    """Write whole models in place of adapters that were trained on the model `start`.

    Args:
        targets: checkpoint of either engine -> folder to write.
        why: what is said of a model that equals `start`, besides that it does.

    Raises:
        LaunchError: it cannot be done, or a model equals `start`.
    """
    with ExitStack() as stack:
        folders = {adapters: stack.enter_context(whole_folder(target)) for adapters, target in targets.items()}
        pairs = [str(path) for pair in folders.items() for path in pair]
        run_engine(
            run.recipe,
            ["launch.engines.adapters", start, *pairs],
            log,
            "merging adapters",
            len(folders),
            lambda: sum((folder / "config.json").exists() for folder in folders.values()),
        )
        for folder in folders.values():
            require_trained(folder, start, why or f"See {run.log('sft')}")

"""Record a finished run as the example that `make tour` opens: its report, and a part of its viewer, in docs/tour.

python -m launch.tour experiment=demo
"""

import shutil
from pathlib import Path

from data_tools.files import whole_folder
from data_tools.run_folder import RunFolder
from launch.command import recipe_command
from launch.console import console
from launch.errors import LaunchError
from launch.recipe import ROOT, Recipe
from launch.run import run_of

TOUR = ROOT / "docs" / "tour"
LARGEST = 3 << 20  # bytes: it lies in the repository
QUESTIONS = 40  # that can be browsed in the report
STEPS, GROUPS = 3, 12  # of the training in the viewer, and prompts or questions of each step and set
VIEWER = "viewer/index.html"


def record(run: RunFolder, folder: Path = TOUR) -> int:
    """Write the report of a run and a part of its viewer into a folder, in place of what it held; its size in bytes.

    Raises:
        LaunchError: it is too large, or names a folder of this machine. RunError: see `evaluation.report.load`.
    """
    from evaluation.report.page import write_report

    with whole_folder(folder) as made:
        write_report(run, into=made, browsed=QUESTIONS, viewer=VIEWER)
        _viewer(run, (made / VIEWER).parent)
        for picture in made.glob("*.png"):
            picture.unlink()  # the page draws them itself
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST:
            raise LaunchError(
                f"{made} takes {size} bytes, more than {LARGEST}: lower QUESTIONS or GROUPS of {__name__}"
            )
        pages = [path.read_text(encoding="utf-8") for path in made.rglob("*") if path.suffix in (".html", ".js")]
        if known := [
            path for path in (ROOT, Path.home(), run.root.absolute()) if any(f"{path}/" in it for it in pages)
        ]:
            raise LaunchError(f"the pages name {known[0]}, a folder of this machine: record a run without such paths")
        shutil.rmtree(folder, ignore_errors=True)
    return size


def _viewer(run: RunFolder, folder: Path) -> None:
    from evaluation.viewer.folder import write_folder
    from evaluation.viewer.index import Index

    index = Index(run)
    index.refresh()
    with index.excerpt(STEPS, GROUPS):
        write_folder([index], folder, report="../index.html")
    index.close()


@recipe_command
def main(recipe: Recipe) -> None:
    run = run_of(recipe)
    run.require("evaluate")
    console.print(f"[green]tour[/] {record(run.paths) / (1 << 20):.1f} MiB: {TOUR / 'index.html'}")


if __name__ == "__main__":
    main()

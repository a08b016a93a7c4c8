"""Record a finished run as the example that `make tour` opens: its report, with fewer clips, in docs/tour.

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
QUESTIONS = 40  # that can be browsed


def record(run: RunFolder, folder: Path = TOUR) -> int:
    """Write the report of a run into a folder, in place of what it held; its size in bytes.

    Raises:
        LaunchError: it is too large, or names a folder of this machine. RunError: see `evaluation.report.load`.
    """
    from evaluation.report.page import write_report

    with whole_folder(folder) as made:
        write_report(run, into=made, browsed=QUESTIONS)
        for picture in made.glob("*.png"):
            picture.unlink()  # the page draws them itself
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if size > LARGEST:
            raise LaunchError(f"{made} takes {size} bytes, more than {LARGEST}: lower QUESTIONS of {__name__}")
        page = (made / "index.html").read_text(encoding="utf-8")
        if known := [str(path) for path in (ROOT, Path.home(), run.root.absolute()) if f"{path}/" in page]:
            raise LaunchError(f"the report names {known[0]}, a folder of this machine: record a run without such paths")
        shutil.rmtree(folder, ignore_errors=True)
    return size


@recipe_command
def main(recipe: Recipe) -> None:
    run = run_of(recipe)
    run.require("evaluate")
    console.print(f"[green]tour[/] {record(run.paths) / (1 << 20):.1f} MiB: {TOUR / 'index.html'}")


if __name__ == "__main__":
    main()

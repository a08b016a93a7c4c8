"""Stage `report`: one HTML page and summary.json of a run.

python -m launch.report experiment=demo
"""

from launch.recipe import Recipe, command
from launch.run import console, run_of


@command
def main(recipe: Recipe) -> None:
    from evaluation.report import write_report

    run = run_of(recipe)  # not open_run: what the run was made with must stay as it is
    write_report(run.folder)
    console.print(f"[green]report[/] {run.folder / 'report' / 'index.html'}")


if __name__ == "__main__":
    main()

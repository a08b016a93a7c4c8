"""Stage `report`: one HTML page and summary.json of a run.

python -m launch.report experiment=demo
"""

from launch.recipe import Recipe, command
from launch.run import console, open_run


@command
def main(recipe: Recipe) -> None:
    from evaluation.report import write_report

    run = open_run(recipe)
    write_report(run.folder)
    console.print(f"[green]report[/] {run.folder / 'report' / 'index.html'}")


if __name__ == "__main__":
    main()

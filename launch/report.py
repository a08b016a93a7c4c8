"""Stage `report`: one HTML page and summary.json of a run, whatever sets it was evaluated on.

python -m launch.report experiment=demo
python -m launch.report experiment=camreasoner ... judge=endpoint judge.model=Qwen/Qwen3-32B judge.cache=verdicts/
"""

from launch.command import command
from launch.console import console
from launch.run import Run


@command("report")
def main(run: Run) -> None:
    from evaluation.report.page import write_report

    notes = write_report(run.paths, run.recipe.judge.model_dump())
    console.print(f"[green]report[/] {run.paths.report / 'index.html'}")
    for note in notes:
        console.print(f"  observation and thought, {note}", markup=False)


if __name__ == "__main__":
    main()

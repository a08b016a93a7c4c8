"""Stage `model`: the model before SFT. Builds the tiny one; a real one is only checked.

python -m launch.model experiment=demo
"""

import shutil
from pathlib import Path

from launch.command import command
from launch.console import console
from launch.engines.watch import run_engine
from launch.errors import LaunchError
from launch.models import require_family
from launch.run import Run


def prepare(run: Run) -> None:
    """Build the tiny model in the run folder; a real one stays where it is."""
    recipe = run.recipe
    if recipe.model.path is not None:
        console.print(f"  model: {recipe.model.path}")
        return
    folder = run.paths.model
    shutil.rmtree(folder, ignore_errors=True)
    marks = run.folder / "logs" / "warm_up.steps"
    marks.parent.mkdir(exist_ok=True)
    marks.write_text("0")
    run_engine(
        recipe,
        ["launch.engines.warm_up", str(run.folder)],
        run.log("model"),
        "warm-up",
        recipe.model.warm_up.steps if recipe.model.warm_up else 0,
        lambda: int(marks.read_text() or 0),
    )
    learnt = "the form of its answers" if recipe.data.rendered is None else "camera motions"
    family = recipe.model.architecture.family if recipe.model.architecture else ""
    console.print(f"  tiny {family}, warmed up on {learnt} in place of pretraining: {folder}")


def check(run: Run) -> None:
    """Refuse a folder without a model, and a tiny model of an unknown family, before anything is written."""
    model = run.recipe.model
    if model.path is None:
        if model.architecture is None:
            raise LaunchError("model.path is null: the tiny model needs model.architecture (recipes/model/tiny.yaml)")
    elif Path(run.base_model).exists() and not Path(run.base_model, "config.json").exists():
        raise LaunchError(f"model.path: {run.base_model} has no config.json: it is not a Hugging Face model")
    else:
        require_family(run.recipe, Path(run.base_model))


@command("model", check)
def main(run: Run) -> None:
    prepare(run)


if __name__ == "__main__":
    main()

"""Stage `model`: the model before SFT. Builds the tiny one; a real one is only checked.

python -m launch.model experiment=demo
"""

import shutil
from pathlib import Path

from launch.engine import run_engine
from launch.errors import LaunchError
from launch.recipe import Recipe, command
from launch.run import Run, console, open_run, stage


def prepare(run: Run) -> None:
    """Build the tiny model in the run folder, or see that the given path can be one."""
    recipe = run.recipe
    if recipe.model.path is not None:
        path = Path(recipe.model.path).expanduser()
        if path.exists() and not (path / "config.json").exists():
            raise LaunchError(f"model.path: {path} holds no config.json, so it is no Hugging Face model")
        console.print(f"  model: {recipe.model.path}")
        return
    if recipe.model.warm_up is None or recipe.data.rendered is None:
        raise LaunchError("model.path is null: the tiny model needs model.warm_up and rendered data")
    folder = run.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    marks = run.folder / "logs" / "warm_up.steps"
    marks.parent.mkdir(exist_ok=True)
    marks.write_text("0")
    run_engine(
        recipe,
        ["launch.tiny_model", str(run.folder)],
        run.log("model"),
        "vision warm-up",
        recipe.model.warm_up["steps"],
        lambda: int(marks.read_text() or 0),
    )
    console.print(f"  tiny Qwen2.5-VL, its vision warmed up in place of pretraining: {folder}")


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    run.require("data")
    with stage(run, "model") as needed:
        if needed:
            prepare(run)


if __name__ == "__main__":
    main()

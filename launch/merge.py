"""Stage `merge`: the last RL checkpoint as an ordinary Hugging Face folder.

python -m launch.merge experiment=demo
"""

import shutil

from launch.engine import run_engine
from launch.errors import LaunchError
from launch.recipe import Recipe, command
from launch.rl import last_checkpoint
from launch.run import Run, console, open_run, stage


def merge(run: Run) -> None:
    """Join the FSDP shards of the last checkpoint (verl's merger writes bfloat16)."""
    step = last_checkpoint(run.folder / "rl")
    actor = run.folder / "rl" / "checkpoints" / f"global_step_{step}" / "actor"
    if step == 0 or not actor.exists():
        raise LaunchError(f"{run.folder / 'rl'} holds no whole checkpoint: run the rl stage first")
    partial = run.merged.with_name("merged.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(run.merged, ignore_errors=True)
    run_engine(
        run.recipe,
        ["verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", str(actor), "--target_dir", str(partial)],
        run.log("merge"),
        "merging FSDP shards",
        1,
        lambda: int((partial / "config.json").exists()),
    )
    partial.replace(run.merged)
    console.print(f"  model after RL, step {step}: {run.merged}")


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    run.require("rl")
    with stage(run, "merge") as needed:
        if needed:
            merge(run)


if __name__ == "__main__":
    main()

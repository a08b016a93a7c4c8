"""Stage `merge`: an RL checkpoint (rl.checkpoint: last, best or a step) as an ordinary Hugging Face folder.

python -m launch.merge experiment=demo
"""

import json
import shutil
from pathlib import Path

from data_tools.files import whole_folder, whole_lines
from launch.adapters import merge_adapters
from launch.command import command
from launch.console import console
from launch.engines.verl.config import merge_command
from launch.engines.watch import run_engine
from launch.errors import LaunchError
from launch.models import require_trained
from launch.run import Run
from launch.run.checkpoints import last_rl_step, steps_in


def merge(run: Run) -> None:
    """Join what the chosen checkpoint's ranks hold, whole weights or adapters of those that RL started from."""
    folder, start = run.paths, run.sft_checkpoint(run.recipe.rl.start_epoch)
    step, actor = chosen_actor(run)
    shutil.rmtree(folder.merged, ignore_errors=True)
    if run.recipe.lora:
        merge_adapters(run, start, {actor: folder.merged}, run.log("merge"), of_gradients(run, step))
    else:
        merge_shards(run, start, actor, of_gradients(run, step))
    console.print(f"  model after RL, step {step}: {folder.merged}")


def of_gradients(run: Run, step: int) -> str:
    """What is said, besides that it is, of a model that RL until `step` left as it was."""
    told = [line["data"] for line in map(json.loads, whole_lines(run.paths.rl_metrics)) if line["step"] <= step]
    if not told or any(data.get("actor/grad_norm") for data in told):
        return f"See {run.log('rl')}, and actor/grad_norm in {run.paths.rl_metrics}"
    return (
        f"The gradient (actor/grad_norm) was 0 in all {len(told)} steps, as it is where the rollouts of each prompt "
        "earn one reward (groups/effective): there is nothing to merge, and what RL started from is the result "
        "(eval.models=[base,sft]). Or give RL a difference to learn from, and run it again with force=true: "
        "rl.filter.enabled=true, rl.group_size or rl.temperature higher, more SFT before it, other questions"
    )


def merge_shards(run: Run, start: str, actor: Path, why: str) -> None:
    """Join FSDP shards of whole weights; verl's merger writes bfloat16.

    Raises:
        LaunchError: it cannot be done, or the model equals `start`.
    """
    with whole_folder(run.paths.merged) as merged:
        run_engine(
            run.recipe,
            merge_command(actor, merged),
            run.log("merge"),
            "merging FSDP shards",
            1,
            lambda: int((merged / "config.json").exists()),
        )
        require_trained(merged, start, why)


def chosen_actor(run: Run) -> tuple[int, Path]:
    """Step of the checkpoint that rl.checkpoint names, and the folder of its shards.

    Raises:
        LaunchError: there is none.
    """
    chosen, folder = run.recipe.rl.checkpoint, run.paths
    if chosen == "best":
        step, kept = max(steps_in(folder.rl_best), default=0), folder.rl_best
    else:
        step, kept = last_rl_step(folder) if chosen == "last" else chosen, folder.rl_checkpoints
    actor = kept / f"global_step_{step}" / "actor"
    if step == 0 or not actor.exists():
        there = steps_in(folder.rl_checkpoints)
        raise LaunchError(
            f"rl.checkpoint={chosen}: {folder.rl} has no whole checkpoint of it (there are {there}): "
            "choose another, or run the rl stage again with force=true"
        )
    return step, actor


@command("merge", chosen_actor)
def main(run: Run) -> None:
    merge(run)


if __name__ == "__main__":
    main()

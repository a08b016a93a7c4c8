"""Stage `rl`: GRPO in verl on Ray, FSDP actors and vLLM rollouts, from the chosen SFT epoch.

python -m launch.rl experiment=demo reward.format_weight=0.3
"""

import json
from pathlib import Path

from omegaconf import OmegaConf

from launch.engine import run_engine, scratch_path
from launch.errors import LaunchError
from launch.recipe import Recipe, command
from launch.run import Run, console, open_run, stage
from launch.verl import check_rewards, render


def total_steps(run: Run) -> int:
    """Optimisation steps of the RL stage.

    Raises:
        LaunchError: fewer prompts than one rollout batch.
        TaskError: a sample that the reward cannot score.
    """
    from data_tools.sample import read_samples
    from rewards.registry import check_sample

    prompts, rl = 0, run.recipe.rl
    for sample in read_samples(run.data / "rl.jsonl"):
        check_sample(sample.model_dump(), run.recipe.reward.name)
        prompts += 1
    per_epoch = prompts // rl.rollout_batch_size
    if per_epoch == 0:
        raise LaunchError(f"{prompts} RL prompts do not fill rl.rollout_batch_size={rl.rollout_batch_size}")
    return rl.steps or per_epoch * rl.epochs


def train(run: Run) -> None:
    """Render verl's configuration and train, going on from the last whole checkpoint."""
    check_rewards(run.recipe)
    folder = run.folder / "rl"
    folder.mkdir(exist_ok=True)
    steps = total_steps(run)
    config = render(run, run.sft_checkpoint(run.recipe.rl.start_epoch), steps, scratch_path(run.log("rl")) / "ray")
    path = folder / "verl.yaml"
    path.write_text(OmegaConf.to_yaml(config))
    metrics = folder / "metrics.jsonl"
    begun = forget_steps_after_checkpoint(folder)
    if begun:
        console.print(f"  going on after step {begun}")
    run_engine(
        run.recipe,
        ["launch.rl_engine", str(path)],
        run.log("rl"),
        "GRPO in verl",
        steps,
        lambda: _lines(metrics),
        env={"VERL_FILE_LOGGER_PATH": str(metrics), "TENSORBOARD_DIR": str(folder / "tensorboard")},
    )
    if _lines(metrics) < steps:
        raise LaunchError(f"verl ended after {_lines(metrics)} of {steps} steps; see {run.log('rl')}")
    console.print(f"  metrics: {metrics}\n  rollouts: {folder / 'rollouts'}")


def last_checkpoint(folder: Path) -> int:
    """Step of the last whole checkpoint in rl/, 0 when there is none."""
    tracker = folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    return int(tracker.read_text()) if tracker.exists() else 0


def forget_steps_after_checkpoint(folder: Path) -> int:
    """Drop the metrics and rollouts of steps that will be done again, and give the step that training goes on from."""
    step = last_checkpoint(folder)
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        lines = [line for line in metrics.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        partial = metrics.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(metrics)
    for rollouts in (folder / "rollouts").glob("*.jsonl"):
        if int(rollouts.stem) > step:
            rollouts.unlink()
    return step


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    run.require("data", "model", *(["sft"] if recipe.rl.start_epoch else []))
    with stage(run, "rl") as needed:
        if needed:
            train(run)


if __name__ == "__main__":
    main()

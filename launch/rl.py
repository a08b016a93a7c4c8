"""Stage `rl`: GRPO in verl on Ray, FSDP actors and vLLM rollouts, from the chosen SFT epoch.

python -m launch.rl experiment=demo reward.format_weight=0.3
"""

import json

from omegaconf import OmegaConf

from data_tools.files import whole_lines, write_text
from data_tools.run_folder import RunFolder
from evaluation.diagnosis import diagnose
from evaluation.held_out import Record, best_of, read_held_out
from launch.checks import check_rewards, require_batch, require_motions
from launch.command import command
from launch.console import console
from launch.engines.environment import policy_devices
from launch.engines.verl.config import render
from launch.engines.verl.fitting import fitting_prompts
from launch.engines.watch import run_engine, scratch_path
from launch.errors import LaunchError
from launch.health.network import require_judge
from launch.planning.prompts import check_prompts
from launch.run import Run
from launch.run.checkpoints import resume_rl, rl_steps
from launch.samples.pass_rates import kept_ids


def scorable_prompts(run: Run) -> int:
    """The number of RL prompts.

    Raises:
        TaskError: a sample that the reward cannot score.
    """
    from data_tools.sample import read_samples
    from rewards.scorer import require_scorable

    prompts = 0
    for sample in read_samples(run.paths.samples("rl")):
        require_scorable(sample.model_dump(), run.recipe.reward.name)
        prompts += 1
    return prompts


def total_steps(run: Run, prompts: int) -> int:
    """Optimisation steps of the RL stage.

    Raises:
        RecipeError: fewer prompts than one rollout batch.
    """
    require_batch(run.recipe, prompts)
    rl = run.recipe.rl
    return rl.steps or prompts // rl.rollout_batch_size * rl.epochs


def train(run: Run) -> None:
    """Render verl's configuration and train, from the last whole checkpoint."""
    folder = run.paths
    dataset, prompts = fitting_prompts(run)
    if run.recipe.rl.by_difficulty:
        console.print(f"  {prompts} prompts, those kept by difficulty: {folder.difficulty_page}")
    if dataset == folder.rl_prompts and folder.rl_quarantine.exists():
        console.print(f"  {prompts} prompts; the others are longer than rl.max_prompt_length: {folder.rl_quarantine}")
    steps = total_steps(run, prompts)
    config = render(run, run.sft_checkpoint(run.recipe.rl.start_epoch), steps, scratch_path(run.log("rl")) / "ray")
    config.data.train_files = str(dataset)
    write_text(folder.rl_config, OmegaConf.to_yaml(config))
    last = resume_rl(folder)
    if last:
        console.print(f"  resuming after step {last}")
    run_engine(
        run.recipe,
        ["launch.engines.verl.main", str(folder.rl_config)],
        run.log("rl"),
        "GRPO in verl",
        steps,
        lambda: rl_steps(folder),
        env={
            "VERL_FILE_LOGGER_PATH": str(folder.rl_metrics),
            "TENSORBOARD_DIR": str(folder.rl / "tensorboard"),
            **policy_devices(run.recipe),
        },
    )
    done = rl_steps(folder)
    records = read_held_out(folder.held_out)
    if done < steps and not (records and records[-1].get("ended")):
        raise LaunchError(f"verl stopped after {done} of {steps} steps; see {run.log('rl')}")
    _show_health(folder, records, run.recipe.rl.held_out.metric)
    console.print(f"  metrics: {folder.rl_metrics}\n  rollouts: {folder.rollouts}")


def _show_health(folder: RunFolder, records: list[Record], metric: str) -> None:
    """What the val split says, and what is wrong by the metrics."""
    steps = [{"step": line["step"], **line["data"]} for line in map(json.loads, whole_lines(folder.rl_metrics))]
    for finding in diagnose(steps, records, metric):
        console.print(f"  [yellow]{finding.what}[/]{finding.line().removeprefix(finding.what)}", highlight=False)
    if not records:
        return
    best, last = best_of(records, metric), records[-1]
    console.print(f"  val split: {metric} {best[metric]:.3f} at step {best['step']}, {last[metric]:.3f} at the end")


def check(run: Run) -> None:
    """Refuse prompts and rewards that do not fit, and prompts that are too few, before anything is written."""
    from data_tools.sample import read_samples

    check_prompts(run.recipe)
    check_rewards(run.recipe)
    require_judge(run.recipe)
    require_motions(run.recipe, read_samples(run.paths.samples("rl")))
    prompts = scorable_prompts(run)
    total_steps(run, len(kept_ids(run.recipe)) if run.recipe.rl.by_difficulty else prompts)
    if run.recipe.rl.held_out.every and not run.paths.verl_data("val").exists():
        raise LaunchError(f"rl.held_out: {run.paths.verl_data('val')} is missing: run the stage 'data' again")


@command("rl", check)
def main(run: Run) -> None:
    train(run)


if __name__ == "__main__":
    main()

"""Stage `sft`: supervised fine-tuning on reasoning chains, in LLaMA-Factory.

python -m launch.sft experiment=demo sft.learning_rate=5e-4
"""

import json
import shutil
from pathlib import Path

import yaml

from launch.engine import run_engine
from launch.llamafactory import render, total_steps
from launch.recipe import Recipe, command
from launch.run import Run, console, open_run, stage


def train(run: Run) -> None:
    """Render the configuration, set half-written checkpoints aside, train from the last whole one."""
    from data_tools.sample import read_samples

    folder = run.folder / "sft"
    folder.mkdir(exist_ok=True)
    config = render(run)
    last = last_whole_checkpoint(folder)
    if last is not None:
        # The weights are read as a model: transformers 5.9.0, trainer.py:3379, compares the names of Qwen's weights in
        # the checkpoint with the model's own, which differ, and goes on from the base model with a warning.
        config |= {"resume_from_checkpoint": str(last), "model_name_or_path": str(last)}
        console.print(f"  going on from {last}")
        forget_steps_after(int(last.name.split("-")[1]), folder / "trainer_log.jsonl")
    else:
        (folder / "trainer_log.jsonl").unlink(missing_ok=True)
    path = folder / "llamafactory.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    samples = sum(1 for _ in read_samples(run.data / "sft.jsonl"))
    gpus = run.recipe.cluster.gpus_per_node
    steps = total_steps(run.recipe, samples)
    launcher = [] if gpus == 1 else ["torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m"]
    run_engine(
        run.recipe,
        [*launcher, "launch.sft_engine", str(path)],
        run.log("sft"),
        "SFT in LLaMA-Factory",
        steps,
        lambda: _steps_done(folder / "trainer_log.jsonl"),
    )
    console.print(f"  checkpoints, one per epoch: {folder}")


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; half-written ones are renamed, with a warning."""
    whole = []
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        if _is_json(path / "processor_config.json"):  # LLaMA-Factory's last, after all of transformers' own
            whole.append(path)
        else:
            aside = path.with_name(f"incomplete-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            console.print(f"  [yellow]warning[/] {path} is half written: kept as {aside.name}, not used")
    return whole[-1] if whole else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # cut off when its writer was killed, or the disk was full
        return False
    return True


def forget_steps_after(step: int, log: Path) -> None:
    """Drop the log's lines of steps that will be done again, and a half-written one."""
    kept = [line for line in _whole_lines(log) if json.loads(line)["current_steps"] <= step]
    partial = log.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept))
    partial.replace(log)


def _whole_lines(log: Path) -> list[str]:
    return log.read_text().split("\n")[:-1] if log.exists() else []


def _steps_done(log: Path) -> int:
    lines = _whole_lines(log)
    return json.loads(lines[-1])["current_steps"] if lines else 0


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    run.require("data", "model")
    with stage(run, "sft") as needed:
        if needed:
            train(run)


if __name__ == "__main__":
    main()

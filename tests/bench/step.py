"""What camreasoner adds to a verl step: a demo's RL under plain verl and under our trainer, same settings.

"baseline" is verl's own synchronous trainer with its GRPO estimator and no records, "camreasoner" the trainer of
launch/verl_plugin with the same estimator, its metrics and its rollout records. Both take the same rollout workers,
reward and sampler (verl's own polls every 2 s, which would drown the difference).
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from data_tools.run_folder import RunFolder
from launch.engines.verl.config import render
from launch.engines.watch import run_engine, scratch_path
from launch.memory import MemoryMeter
from launch.recipe import Recipe
from launch.run import Run
from tests.bench.row import Row

STEPS = 12
PARTS = {"gen": "rollouts", "update_actor": "update", "adv": "advantages"}
BASELINE = {
    "trainer.v1.trainer_mode": "sync",
    "algorithm.adv_estimator": "grpo",
    "trainer.rollout_data_dir": None,
}


def config(run: Run, model: str, steps: int, folder: Path, changes: dict[str, Any], log: Path) -> DictConfig:
    """verl's configuration of `steps` steps without checkpoints, written under `folder`."""
    made = render(run, model, steps, scratch_path(log) / "ray")
    own = {
        "trainer.save_freq": -1,
        "trainer.resume_mode": "disable",
        "trainer.default_local_dir": str(folder / "checkpoints"),
        "trainer.rollout_data_dir": str(folder / "rollouts"),
    }
    for key, value in (own | changes).items():
        OmegaConf.update(made, key, value, merge=False, force_add=True)
    return made


def step_seconds(run: Run, model: str, steps: int, name: str, changes: dict[str, Any], folder: Path) -> list[dict]:
    """Metrics of each step under one of the trainers."""
    folder = folder / name
    folder.mkdir()
    log, metrics = folder / "log", folder / "metrics.jsonl"
    (folder / "verl.yaml").write_text(OmegaConf.to_yaml(config(run, model, steps, folder, changes, log)))
    run_engine(
        run.recipe,
        ["launch.engines.verl.main", str(folder / "verl.yaml")],
        log,
        name,
        steps,
        lambda: len(metrics.read_text().splitlines()) if metrics.exists() else 0,
        env={"VERL_FILE_LOGGER_PATH": str(metrics), "TENSORBOARD_DIR": str(folder / "tensorboard")},
    )
    return [json.loads(line)["data"] for line in metrics.read_text().splitlines()]


def compare(folder: Path, steps: int = STEPS) -> tuple[Table, Row]:
    """Median of a step under both, by part, and the row of their ratio.

    Args:
        folder: a demo run whose SFT is done; nothing in it is changed.
        steps: of each; the first, which warms up, does not count.
    """
    content = yaml.safe_load(RunFolder(folder).recipe.read_text())
    recipe = Recipe.model_validate(content | {"advantage": {"name": "grpo"}})
    run = Run(recipe, folder.absolute())
    model = run.sft_checkpoint(recipe.rl.start_epoch)
    title = f"a step of RL in {folder.name}, median of {steps - 1}"
    shown = Table("trainer", "seconds", "from–to", *PARTS.values(), "GiB", title=title)
    medians = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, changes in (("baseline", BASELINE), ("camreasoner", {})):
            with MemoryMeter() as meter:
                metrics = step_seconds(run, model, steps, name, changes, Path(scratch))[1:]
            seconds = [step["timing_s/step"] for step in metrics]
            medians[name] = statistics.median(seconds)
            parts = [statistics.median(step.get(f"timing_s/{part}", 0.0) for step in metrics) for part in PARTS]
            spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
            row = f"{medians[name]:.2f}", spread, *(f"{part:.3f}" for part in parts), f"{meter.peak_gib:.2f}"
            shown.add_row(name, *row)
    return shown, Row("a step of RL | plain verl", medians["camreasoner"], medians["baseline"], 1.02)

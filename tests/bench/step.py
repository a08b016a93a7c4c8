"""A step of RL under plain verl and under ours at three lengths of the prompt, and ours with each part alone.

Log-probabilities and update are timed in one process, by turns (`tests.bench.update`). Rollouts, the bytes of verl's
queue and the memory of its processes come from a real run of each side: a few steps, in which the clips grow. "plain"
has verl's own trainer and estimator and no records; reward and sampler are ours on both sides (verl's own polls every
2 s, which would drown the difference).
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from data_tools.files import write_json
from launch.compose import compose_recipe
from launch.engines.verl.config import render
from launch.engines.watch import run_engine, scratch_path
from launch.memory import MemoryMeter
from launch.recipe import ROOT
from launch.run import Run
from tests.bench.row import Row
from tests.bench.update import FRAMES, VARIANTS, save_tiny

OUT = ROOT / "runs" / "bench" / "step.json"
SIZES, GROUP = (2, 4, 8), 8
PROMPTS, STEPS = 2, 2  # of a step, and steps of each length, of which the first fills caches
RUNS = ("plain", "ours")
PATCH, RESPONSE = 14, 64
# Of the update: at most so many times plain verl's, by visual tokens.
AT_MOST = {18: 1.0, 512: 0.5, 2048: 0.2}
QUEUE_AT_MOST = 1 / 30  # of plain verl's bytes, at the longest prompt
BASELINE: dict[str, Any] = {
    "trainer.v1.trainer_mode": "sync",
    "algorithm.adv_estimator": "grpo",
    "trainer.rollout_data_dir": None,
}


def updates(folder: Path) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Group size -> visual tokens -> variant -> what `tests.bench.update` measured."""
    recipe, _ = compose_recipe(["experiment=demo"])
    out, named = folder / "update.json", (",".join(map(str, of)) for of in (FRAMES, SIZES))
    command = ["tests.bench.update", str(out), *named]
    run_engine(recipe, command, folder / "update.log", "log-probs + update", 1, out.exists)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def write_prompts(run: Run) -> None:
    """Questions about clips of noise, those of a step of one length; each length has STEPS of them."""
    import numpy as np

    from data_tools.exports import export, verl_file
    from data_tools.media.normalise import Clip
    from data_tools.rendered.questions import RenderedClip, binary_samples
    from data_tools.rendered.scene import write_clip

    random, clips, shown = np.random.default_rng(0), {}, []
    for time, down, across in FRAMES.values():
        frames, height, width = 2 * time, PATCH * down, PATCH * across
        for _ in range(STEPS * PROMPTS):
            name = f"clips/{len(shown):02d}.mp4"
            write_clip(run.media_root / name, random.integers(0, 256, (frames, height, width, 3), np.uint8), 2.0)
            clips[name] = Clip(name, frames, 500, width, height, frames / 2, "")
            shown.append(RenderedClip(name, "static", "noise"))
    for split in ("rl", "test"):
        file = verl_file(run.paths.verl_data(split), run.media_root, clips, run.recipe.form)
        export(binary_samples(shown, len(shown), "rl", random), run.media_root, file)


def rollouts(side: str, folder: Path) -> dict[str, dict[str, float]]:
    """Visual tokens -> seconds of the rollouts of a step, MB through verl's queue in it, GiB of all processes."""
    batch = [f"rl.{of}_batch_size={PROMPTS}" for of in ("rollout", "global")]
    batch += [f"rl.{of}={GROUP}" for of in ("group_size", "micro_batch_size_per_gpu")]
    lengths = ["rl.max_prompt_length=2304", f"rl.max_response_length={RESPONSE}", "rl.freeze_vision_tower=false"]
    recipe, _ = compose_recipe(["experiment=demo", *batch, *lengths, *VARIANTS[side]])
    run, log, steps = Run(recipe, folder), folder / "log", STEPS * len(FRAMES)
    save_tiny(run.paths.model)
    write_prompts(run)
    config = render(run, str(run.paths.model), steps, scratch_path(log) / "ray")
    changes = {"trainer.save_freq": -1, "trainer.resume_mode": "disable", "data.shuffle": False}
    for key, value in {**changes, **(BASELINE if side == "plain" else {})}.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    (folder / "verl.yaml").write_text(OmegaConf.to_yaml(config))
    metrics = folder / "metrics.jsonl"
    env = {"VERL_FILE_LOGGER_PATH": str(metrics), "TENSORBOARD_DIR": str(folder / "tensorboard")}
    with MemoryMeter() as meter:
        run_engine(
            recipe,
            ["launch.engines.verl.main", str(folder / "verl.yaml")],
            log,
            f"rollouts, {side}",
            steps,
            lambda: len(metrics.read_text().splitlines()) if metrics.exists() else 0,
            env=env | {"TQ_STORAGE_LARGE_PAYLOAD_MB": "0"},  # each request to the queue writes its size to the log
        )
    logged = [json.loads(line)["data"] for line in metrics.read_text().splitlines()]
    sizes = list(queued(log.read_text()))
    found = {}
    for number, tokens in enumerate(FRAMES):
        last = STEPS * (number + 1) - 1
        found[str(tokens)] = {"rollout_s": round(logged[last]["timing_s/gen"], 3), "queue_mb": round(sizes[last], 1)}
        found[str(tokens)]["run_gib"] = {"all": round(meter.peak_gib, 2)} | {
            name: round(size, 2) for name, size in sorted(meter.by_name.items())
        }
    return found


def queued(log: str) -> Iterator[float]:
    """MB of the requests to verl's queue, step by step."""
    for step in re.split(r"^.*\bstep:\d+ - .*$", log, flags=re.MULTILINE)[:-1]:
        yield sum(map(float, re.findall(r"heavy (?:put|get) .*serialized_mb=([\d.]+)", step)))


def compare() -> tuple[list[Table], list[Row]]:
    """Tables of all that was measured, which lies in runs/bench/step.json too, and the ratios of the update."""
    with tempfile.TemporaryDirectory() as scratch:
        measured = updates(Path(scratch))
        found = measured[str(GROUP)]
        for side in RUNS:
            folder = Path(scratch) / side
            folder.mkdir()
            for tokens, numbers in rollouts(side, folder).items():
                found[tokens][side] |= numbers
    write_json(OUT, found)
    write_json(OUT.with_name("groups.json"), measured)
    rows = []
    for tokens, at_most in AT_MOST.items():
        ours, plain = (found[str(tokens)][side]["update_s"] for side in RUNS[::-1])
        rows.append(Row(f"log-probs + update, {tokens} visual tokens | plain verl", ours, plain, at_most))
    ours, plain = (found[str(max(AT_MOST))][side]["queue_mb"] for side in RUNS[::-1])
    rows.append(Row(f"MB through verl's queue, {max(AT_MOST)} visual tokens | plain verl", ours, plain, QUEUE_AT_MOST))
    return [table_of(found), groups_of(measured)], rows


def table_of(found: dict[str, dict[str, dict[str, Any]]]) -> Table:
    columns = ("visual tokens", "", "log-probs + update", "of plain", "GFLOP", "GiB", "rollouts", "queue MB")
    table = Table(*columns, title=f"one prompt x {GROUP}; rollouts: {PROMPTS} prompts x {GROUP}")
    for tokens, sides in found.items():
        for side, of in sides.items():
            ratio = of["update_s"] / sides["plain"]["update_s"]
            cells = f"{of['update_s']:.2f} s", f"{ratio:.2f}", f"{of['flops'] / 1e9:.1f}", f"{of['peak_gib']:.2f}"
            run = (f"{of['rollout_s']:.2f} s", f"{of['queue_mb']:.1f}") if "rollout_s" in of else ("", "")
            table.add_row(tokens, side, *cells, *run)
    return table


def groups_of(measured: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> Table:
    """Ours as a part of plain verl: its time and its operations."""
    table = Table("visual tokens", *(f"G = {size}" for size in measured), title="ours / plain: time, operations")
    for tokens in next(iter(measured.values())):
        cells = []
        for lengths in measured.values():
            ours, plain = (lengths[tokens][side] for side in RUNS[::-1])
            cells.append(", ".join(f"{ours[what] / plain[what]:.2f}" for what in ("update_s", "flops")))
        table.add_row(tokens, *cells)
    return table

"""Measure how fast this machine generates, reads, trains and loads; `make plan` then counts with that, and says so.

python -m launch.calibrate experiment=camreasoner cluster=node_8gpu

A few RL steps of the experiment's model, on clips rendered in its media budget, through the engines as they are
(recipes/rehearsal/calibration.yaml): ten minutes at most. What was measured goes to <runs>/calibration.yaml.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isqrt, lcm
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from data_tools.files import whole_lines, write_text
from data_tools.run_folder import RunFolder
from launch.command import composing_command
from launch.compose import compose_complete, compose_recipe
from launch.console import console
from launch.errors import LaunchError
from launch.health.gpus import seen_gpus
from launch.overrides import quoted
from launch.planning.measured import Measured, measured_path
from launch.planning.ranges import as_range, calibration
from launch.planning.sizes import architecture_of, ranks
from launch.planning.time import forward_flops, trained_flops, update_passes
from launch.recipe import ROOT, Recipe
from launch.run import Run, finished, owned, run_of
from launch.run.load import measure

SECONDS = 600  # of the whole calibration
ENDING = 20  # of them, to end engines that are still at work and to write what was measured
STEPS = 3  # the first compiles and fills caches, and is not counted
ROWS = {"cpu": 256, "cuda": 8}  # rollouts of a rank in a step, about
# Three steps do not show how far steps differ: the bar is that of the fastest and the slowest, times these.
SPREAD = (0.8, 1.3)
CLIPS = 16  # that are loaded to learn how fast that is
HEADER = "# Written by `make calibrate` (docs/plan.md). `rates` lie over those of launch/planning/calibration.yaml.\n"


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The command line of a stage: the user's, the layer, and the sizes of clips and batches.

    Raises:
        LaunchError: a GPU whose peak nobody knows, so that a plan could not count with it.
    """
    recipe, _ = compose_recipe(arguments)
    cluster, rl, media = recipe.cluster, recipe.rl, recipe.media
    known = calibration()["throughput"]
    if cluster.device == "cuda" and cluster.gpu not in known:
        raise LaunchError(f"cluster.gpu={cluster.gpu}: of it calibration.yaml has no peak_tflops; enter the vendor's")
    n = ranks(recipe, "rl")
    step = lcm(rl.group_size, n * rl.micro_batch_size_per_gpu) // rl.group_size  # prompts that the ranks divide
    prompts = step * max(1, ROWS[cluster.device] * n // (step * rl.group_size))
    side = isqrt(media.max_pixels) // (4 * 7) * (4 * 7)
    clips = [f"data.rendered.size={side}", f"data.rendered.frames={media.max_frames}", f"data.rendered.fps={media.fps}"]
    number = STEPS * prompts + STEPS * prompts % 2  # a clip for each prompt: two of a step would share their prefill
    clips += [f"data.rendered.rl={{clips: {number}, binary: {number}, choice: 0, confusable: 0.5}}"]
    # A real model is told the form of its answers; the tiny one, which has room for few words, need not know it.
    prompt = ["prompt=plain" if recipe.model.path is None else "prompt=camreasoner"]
    asked = [one for one in arguments if not one.startswith("prompt=")]
    batches = [f"rl.steps={STEPS}", f"rl.rollout_batch_size={prompts}", f"rl.global_batch_size={prompts}"]
    return [*asked, *prompt, "+rehearsal=calibration", *clips, *batches]


def keep_made(run: Run) -> None:
    """Remove what an earlier calibration left, but for data and a model that this one would make again."""
    try:
        for stage in ("data", "model"):
            finished(run, stage)
    except LaunchError:  # of another recipe, or cut
        shutil.rmtree(run.folder)
        return
    shutil.rmtree(run.paths.rl, ignore_errors=True)
    for record in (run.paths.record("rl"), run.paths.started("rl")):
        record.unlink(missing_ok=True)


def run_stage(stage: str, overrides: Sequence[str], until: float) -> bool:
    """Run a stage's own command; False where it was ended at `until` (time.monotonic()).

    Raises:
        LaunchError: it failed.
    """
    process = subprocess.Popen([sys.executable, "-m", f"launch.{stage}", *overrides], cwd=ROOT)
    try:
        code = process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()  # its engines end with it; an interrupt is ignored by what a shell runs in the background
        process.wait()
        return False
    if code:
        raise LaunchError(f"the calibration ends in stage {stage}: the message above says why")
    return True


def steps_of(folder: RunFolder, busy: str | None = None) -> list[dict[str, float]]:
    """Metrics of the steps but the first, in which kernels are compiled and caches filled.

    Args:
        busy: what `launch.run.load` said of the machine.

    Raises:
        LaunchError: there are none.
    """
    lines = whole_lines(folder.rl_metrics) if folder.rl_metrics.exists() else []
    steps = [json.loads(line)["data"] for line in lines]
    if len(steps) < 2:
        raise LaunchError(
            f"{len(steps)} RL steps within {SECONDS / 60:g} minutes, two are needed: "
            f"{f'{busy}; try again when it is idle' if busy else 'a smaller model, or shorter clips (media)'}. "
            f"Data and model are kept for the next try; see {folder.log('rl')}"
        )
    return steps[1:]


def figures(recipe: Recipe, steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What people compare: of the median step."""

    def of(key: str) -> float:
        return median(step[key] for step in steps)

    rows = recipe.rl.rollout_batch_size * recipe.rl.group_size
    generated, gen = rows * of("response_length/mean"), of("timing_s/gen")
    row, sequence = operations(recipe, steps)
    read = of("timing_s/old_log_prob") * row / sequence  # seconds that whole rows take, as vLLM reads them
    parts = sum(of(f"timing_s/{part}") for part in ("gen", "old_log_prob", "update_actor"))
    return {
        "rollouts": rows,
        "tokens_per_rollout": of("perf/total_num_tokens") / rows,
        "prefill_tokens_per_second": of("perf/total_num_tokens") / read,
        "decode_tokens_per_second": generated / (gen - read if gen > read else gen),
        "update_tokens_per_second": of("perf/total_num_tokens") / of("timing_s/update_actor"),
        "weight_sync_seconds": of("timing_s/update_weights"),
        "overhead_seconds": max(0.0, of("timing_s/step") - parts),
        "step_seconds": of("timing_s/step"),
    }


def operations(recipe: Recipe, steps: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Of a forward pass over a mean row, and of the actor's, which may take a group as one sequence."""
    clip, side = recipe.data.rendered or {}, architecture_of(recipe).vision.patch_size
    seen = as_range(clip["frames"] * clip["size"] ** 2 / (2 * side**2))
    prompt, spoken = (median(step[f"{part}_length/mean"] for step in steps) for part in ("prompt", "response"))
    row = forward_flops(recipe, as_range(prompt + spoken), seen)
    return row.likely, trained_flops(recipe, row, forward_flops(recipe, as_range(prompt), seen)).likely


def rates_of(recipe: Recipe, steps: Sequence[Mapping[str, float]], start: float) -> dict[str, Any]:
    """The same as constants of the plan, each [low, likely, high].

    Args:
        start: seconds before the first step.
    """
    found = figures(recipe, steps)
    slow = max(step["timing_s/step"] for step in steps) / found["step_seconds"]
    fast = min(step["timing_s/step"] for step in steps) / found["step_seconds"]

    def bar(value: float) -> list[float]:
        return [float(f"{value * share:.4g}") for share in (SPREAD[0] * fast, 1.0, SPREAD[1] * slow)]

    model = architecture_of(recipe)
    if recipe.cluster.device == "cpu":
        measured = {"parameters": model.parameters(), "rollouts": found["rollouts"]}
        return {"cpu": measured | {"step_seconds": bar(found["step_seconds"]), "start_seconds": bar(start)}}
    n, rows = ranks(recipe, "rl"), found["rollouts"]
    peak = calibration()["throughput"][recipe.cluster.gpu]["peak_tflops"] * 1e12 * n
    flops = operations(recipe, steps)[1] * rows
    read, update = (median(step[key] for step in steps) for key in ("timing_s/old_log_prob", "timing_s/update_actor"))
    speed = {
        "infer_mfu": bar(flops / read / peak),
        "train_mfu": bar(update_passes(recipe) * flops / update / peak),
        "decode_tokens": bar(found["decode_tokens_per_second"] / (n * min(1.0, 8.3e9 / model.parameters()))),
    }
    within = [0.0, 0.0, 0.0]  # of the rates above
    return {
        "throughput": {
            str(recipe.cluster.gpu): speed,
            "step_overhead_seconds": bar(found["overhead_seconds"]),
            "stage_start_seconds": bar(start),
        },
        "rollout": {"process_seconds": within, "share_seconds": within},
        "small_kernels": {"window_seconds": within, "token_seconds": within},
    }


def clips_per_second(recipe: Recipe, folder: RunFolder) -> float:
    """Clips that one process loads as verl's rollouts do."""
    from data_tools.sample import read_samples
    from launch.engines.vllm.clips import frames_of

    names = {name for sample in read_samples(folder.samples("rl")) for name in sample.media}
    clips = [folder.data / name for name in sorted(names)][:CLIPS]

    def load(clip: Path) -> None:
        content = [{"type": "video", "video": str(clip), **recipe.media.model_dump()}]
        frames_of([{"role": "user", "content": content}], recipe.budget.token_side // 2)

    load(clips[0])  # with the loader's own imports
    start = time.monotonic()
    for clip in clips:
        load(clip)
    return len(clips) / (time.monotonic() - start)


def device(recipe: Recipe) -> str:
    if recipe.cluster.device == "cuda" and (gpus := seen_gpus()):
        return f"{len(gpus)} x {gpus[0].name}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def write(recipe: Recipe, shown: dict[str, float], rates: dict[str, Any], busy: str | None) -> None:
    content = Measured(
        kind=str(recipe.cluster.gpu) if recipe.cluster.device == "cuda" else "cpu",
        device=device(recipe),
        date=datetime.now(UTC).date().isoformat(),
        busy=busy and busy.removeprefix("this machine is "),
        model=recipe.model.path or "tiny",
        figures=shown,
        rates=rates,
    )
    write_text(measured_path(recipe), HEADER + yaml.safe_dump(content.model_dump(), sort_keys=False))


@composing_command
def main() -> None:
    began = time.monotonic()
    arguments = quoted(sys.argv[1:])
    overrides = overrides_of(arguments)
    recipe = compose_complete(overrides)
    run, busy = run_of(recipe), measure().warning
    with owned(run.paths.lock, "calibration"):
        keep_made(run)
    console.print(
        f"[bold]calibration[/] on {device(recipe)}: {SECONDS / 60:g} minutes at most → {measured_path(recipe)}"
    )
    console.print("  only times count: what the stages say of rewards and answers means nothing here")
    if busy:
        console.print(f"  {busy}: what is measured is such a machine's")
    for stage in ("data", "model"):
        if not run_stage(stage, overrides, began + SECONDS):
            raise LaunchError(
                f"stage {stage} alone takes {SECONDS / 60:g} minutes here: shorter clips (media), more cores"
            )
    loaded = clips_per_second(recipe, run.paths)
    rl = time.monotonic()
    done = run_stage("rl", overrides, began + SECONDS - ENDING)
    steps = steps_of(run.paths, busy)
    wall = time.monotonic() - rl - sum(step["timing_s/step"] for step in steps) * (len(steps) + 1) / len(steps)
    found = figures(recipe, steps) | {"clips_per_second": loaded}
    shown = {name: float(f"{value:.4g}") for name, value in found.items()}
    write(recipe, shown, rates_of(recipe, steps, max(1.0, wall)), busy)
    for name, value in shown.items():
        console.print(f"  {name:28} {value:g}", markup=False)
    ended = "" if done else ", ended before its last step"
    console.print(f"[green]calibrated[/] in {time.monotonic() - began:.0f} s{ended}: make plan counts with it")


if __name__ == "__main__":
    main()

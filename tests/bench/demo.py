"""The demo's result over seeds and harmless changes of the numerics: each seed's clips, trained on once per change.

A run that is there is not repeated, so that the table may grow over days. About 11 minutes a run on two idle cores.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from data_tools.run_folder import RunFolder
from launch.recipe import ROOT

GAIN, FIDELITY = 0.05, 0.8  # what every run has to reach: balanced accuracy over SFT's, true observations
RUNS = ROOT / "runs" / "demo"
# Of the numerics alone, from the first weight of the warm-up on: environment and overrides of a run.
CHANGES: dict[str, tuple[dict[str, str], *tuple[str, ...]]] = {
    "none": ({},),
    "kernels": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},),
    "sums": (
        {},
        "sft.per_device_train_batch_size=8",
        "sft.gradient_accumulation_steps=2",
        "rl.micro_batch_size_per_gpu=32",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """Balanced accuracy over the Yes/No questions and share of true observations, of SFT and of RL after it."""

    seed: int
    change: str
    sft: float
    rl: float
    fidelity_of_sft: float
    fidelity: float

    @property
    def holds(self) -> bool:
        return self.rl - self.sft >= GAIN and self.fidelity >= FIDELITY


def outcomes(seeds: Sequence[int]) -> Iterator[Outcome]:
    """Of every seed with every change, the seeds first."""
    for change in CHANGES:
        for seed in seeds:
            yield outcome(seed, change)


def outcome(seed: int, change: str) -> Outcome:
    """Of one run, runs/demo/bench-SEED-CHANGE, made where it is not there.

    Raises:
        CalledProcessError: a stage failed.
    """
    base, made = (RunFolder(RUNS / name) for name in (f"bench-{seed}", f"bench-{seed}-{change}"))
    if not made.record("evaluate").exists():
        for stage in ("data", "sets"):
            run(stage, base, seed)
        if not made.root.exists():
            shutil.copytree(base.root, made.root, symlinks=True)
        for stage in ("model", "sft", "rl", "merge", "evaluate"):
            run(stage, made, seed, *CHANGES[change])
    sft, rl = (json.loads(made.scores("test", model).read_text()) for model in ("sft", "rl"))
    measured = [scores[key] for key in ("balanced_accuracy", "observation_fidelity") for scores in (sft, rl)]
    return Outcome(seed, change, *measured)


def run(stage: str, folder: RunFolder, seed: int, env: dict[str, str] | None = None, *overrides: str) -> None:
    named = ["experiment=demo", f"name={folder.root.name}", f"seed={seed}", *overrides]
    subprocess.run(
        [sys.executable, "-m", f"launch.{stage}", *named], check=True, cwd=ROOT, env=os.environ | (env or {})
    )


def table_of(found: Sequence[Outcome]) -> Table:
    table = Table(
        *("seed", "change", "SFT", "SFT + RL", "gain", "true observations: SFT", "SFT + RL", "holds"),
        title=f"balanced accuracy, of which RL has to gain {GAIN:g}, and true observations, at least {FIDELITY:g}",
    )
    for o in found:
        numbers = (o.sft, o.rl, o.rl - o.sft, o.fidelity_of_sft, o.fidelity)
        table.add_row(
            str(o.seed), o.change, *(f"{number:.3f}" for number in numbers), "yes" if o.holds else "[red]no[/]"
        )
    return table

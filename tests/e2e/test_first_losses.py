"""SFT in LLaMA-Factory starts as it always did: a change of numerics shows in its first losses."""

from pathlib import Path

import pytest
import torch
from chain import copy_before, lines, run
from safetensors.torch import load_file, save_file

GOLDEN = [
    6.3237176,
    5.7582242,
    5.3776464,
    5.1141625,
    4.9223294,
]  # by other kernels the same to 1e-6


def forget(weights: Path) -> None:
    """Random weights in place of the model's: those of a warm-up differ between machines."""
    random, found = torch.Generator().manual_seed(0), load_file(weights)
    for name in sorted(found):
        if "norm" not in name:
            found[name] = 0.02 * torch.randn(found[name].shape, generator=random)
    save_file(found, weights, {"format": "pt"})


def test_the_first_losses_of_sft_are_those_that_they_were(demo):
    folder = copy_before("sft", demo, "first_losses")
    forget(folder / "model" / "model.safetensors")
    settings = ["sft.num_train_epochs=1", "sft.warmup_steps=0", "+sft.engine.logging_steps=1"]
    run("sft", demo.parents[1], folder.name, *settings)
    losses = [line["loss"] for line in lines(folder / "sft" / "trainer_log.jsonl") if "loss" in line]
    assert losses[: len(GOLDEN)] == pytest.approx(GOLDEN, rel=1e-4)

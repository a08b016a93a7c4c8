"""verl's worker on small batches, in a process of its own (it patches transformers): python update_side.py

Prints losses of five steps; operations and seconds of ours beside plain verl's; and by how much gradients differ: with
old log-probabilities of the update's own pass, and with micro-batches by a budget of tokens, of groups and of rows.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from launch.verl_plugin.prefix import OLD_FROM_UPDATE
from tests.bench import update
from tests.bench.update import PLAIN, VARIANTS, Side, batch, log_probs

BUDGET = "rl.micro_batch_tokens=2500"  # of which a group of four takes some 1,200, and a row 300
BY_TOKENS = {"plain": (*PLAIN, BUDGET), "ours": (BUDGET,)}
LOSSES = ("actor/pg_loss", "grad_norm")


def gradients(side: Side, fields: dict[str, Any], old: Any, **asked: Any) -> dict[str, torch.Tensor]:
    """Of an update that is not made."""
    engine, found = side.worker.actor.engine, {}
    step, engine.optimizer_step = engine.optimizer_step, lambda: found.update(_whole(engine.module)) or 0.0
    try:
        update.update(side.worker, fields, old, **asked)
    finally:
        engine.optimizer_step = step
    return found


def _whole(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.full_tensor().clone() for name, p in module.named_parameters() if p.grad is not None}


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference relative to the largest gradient of its tensor."""
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max() / (one[n].abs().max() + 1e-12)) for n in one)


def packed(model: Path, plain: Side, fields: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Differences of log-probabilities and gradients from plain verl's rows, one by one."""
    by_row: dict[str, Any] = {"micro_batch_size_per_gpu": 1}
    reference = log_probs(plain.worker, fields, **by_row)
    expected, found = gradients(plain, fields, reference, **by_row), {}
    for name, variant in BY_TOKENS.items():
        side = Side(model, variant, size=4)
        probs = log_probs(side.worker, fields)
        found[name] = {
            "log_probs": float((probs.values() - reference.values()).abs().max()),
            "gradients": differ(expected, gradients(side, fields, reference)),
        }
    return found


def main() -> None:
    update.join_alone()
    found: dict[str, Any] = {"flops": {}, "seconds": {}, "gib": {}, "losses": []}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        update.save_tiny(model)
        sides = {name: Side(model, VARIANTS[name], size=8) for name in ("plain", "ours")}
        groups = batch(model, 18, size=4, prompts=3)
        found["packed"] = packed(model, sides["plain"], groups)
        old = log_probs(sides["ours"].worker, groups, micro_batch_size_per_gpu=4)
        usual = {"micro_batch_size_per_gpu": 4}
        ratio = gradients(sides["ours"], groups, old, **usual)
        own = gradients(sides["ours"], groups, torch.zeros_like(old), **usual, **{OLD_FROM_UPDATE: True})
        found["own_old"] = differ(ratio, own)
        for tokens in (18, 2048):
            fields = batch(model, tokens, size=8)
            sides["plain"].rows, sides["ours"].own_old = 1, False  # without padding; both passes
            for name, side in sides.items():
                flops, begin = found["flops"].setdefault(tokens, {}), time.perf_counter()
                peak = update.peak_gib(lambda: flops.update({name: side.flops(fields)}))  # noqa: B023 (called here)
                found["gib"].setdefault(tokens, {})[name] = peak
                found["seconds"].setdefault(tokens, {})[name] = time.perf_counter() - begin
        fresh, fields = Side(model, VARIANTS["ours"], size=8), batch(model, 18, size=4, prompts=2)
        for _ in range(5):
            old = log_probs(fresh.worker, fields, **usual)
            metrics = update.update(fresh.worker, fields, 0.9 * old, **usual)
            found["losses"].append([float(metrics[name][0]) for name in LOSSES])
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

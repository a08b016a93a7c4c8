"""Log-probabilities and update under plain verl and under ours, at three lengths of the prompt, and each part alone.

All sides are timed in one process, by turns (`tests.bench.update`).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from data_tools.files import write_json
from launch.compose import compose_recipe
from launch.engines.watch import run_engine
from launch.recipe import ROOT
from tests.bench.row import Row
from tests.bench.update import FRAMES

OUT = ROOT / "runs" / "bench" / "step.json"
SIZES, GROUP = (2, 4, 8), 8
RUNS = ("plain", "ours")
# Of the update: at most so many times plain verl's, by visual tokens.
AT_MOST = {18: 1.0, 512: 0.5, 2048: 0.2}


def updates(folder: Path) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Group size -> visual tokens -> variant -> what `tests.bench.update` measured."""
    recipe, _ = compose_recipe(["experiment=demo"])
    out, named = folder / "update.json", (",".join(map(str, of)) for of in (FRAMES, SIZES))
    command = ["tests.bench.update", str(out), *named]
    run_engine(recipe, command, folder / "update.log", "log-probs + update", 1, out.exists)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def compare() -> tuple[list[Table], list[Row]]:
    """Tables of all that was measured, which lies in runs/bench/step.json too, and the ratios of the update."""
    with tempfile.TemporaryDirectory() as scratch:
        measured = updates(Path(scratch))
    found = measured[str(GROUP)]
    write_json(OUT, found)
    write_json(OUT.with_name("groups.json"), measured)
    rows = []
    for tokens, at_most in AT_MOST.items():
        ours, plain = (found[str(tokens)][side]["update_s"] for side in RUNS[::-1])
        rows.append(Row(f"log-probs + update, {tokens} visual tokens | plain verl", ours, plain, at_most))
    return [table_of(found), groups_of(measured)], rows


def table_of(found: dict[str, dict[str, dict[str, Any]]]) -> Table:
    columns = ("visual tokens", "", "log-probs + update", "of plain", "GFLOP", "GiB")
    table = Table(*columns, title=f"one prompt x {GROUP} answers")
    for tokens, sides in found.items():
        for side, of in sides.items():
            ratio = of["update_s"] / sides["plain"]["update_s"]
            cells = f"{of['update_s']:.2f} s", f"{ratio:.2f}", f"{of['flops'] / 1e9:.1f}", f"{of['peak_gib']:.2f}"
            table.add_row(tokens, side, *cells)
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

"""verl's prompts with the twins of their questions (rl.twins): both branches of a pair in one batch."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import pyarrow as pa

from data_tools.controls import skipped
from data_tools.pairs import paired, write_turned
from data_tools.sample import Sample
from launch.console import console, progress_bar
from launch.engines.ray.map import clip_map
from launch.run import Run


def with_twins(run: Run, table: pa.Table) -> pa.Table:
    """The prompts, each followed by its twin, in the order of training; writes the turned clips.

    Pairs are shuffled here, by the recipe's seed, and not by verl, which would part them; each epoch takes them in the
    same order.
    """
    recipe, rows = run.recipe, table.to_pylist()
    samples = [Sample.model_validate_json(row["extra_info"]["sample"]) for row in rows]
    shuffle = not recipe.rl.by_difficulty or recipe.difficulty.order == "as_given"
    twins = recipe.rl.twins
    chosen, reasons = paired(samples, twins.turns, recipe.seed, shuffle, twins.balanced)
    turned = [sample for sample in chosen if "turn" in sample.extras]
    _write(run, turned)
    console.print(f"  {len(turned)} twins; questions without one: {skipped(reasons) or 'none'}", markup=False)
    by_id = {row["extra_info"]["id"]: row for row in rows}
    made = [_row(run, by_id[sample.extras.get("twin_of", sample.id)], sample) for sample in chosen]
    return pa.Table.from_pylist(made, schema=table.schema)


def _row(run: Run, row: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """The row of a question for it or its twin: another clip and another right answer, and the same prompt."""
    facts = row["extra_info"] | {"id": sample.id, "sample": sample.model_dump_json(exclude_none=True)}
    shown = [video | {"video": str((run.data / str(sample.video)).absolute())} for video in row["videos"] or ()]
    reward = row["reward_model"] | {"ground_truth": sample.answer}
    return row | {"extra_info": facts, "videos": shown, "reward_model": reward}


def _write(run: Run, twins: Iterable[Sample]) -> None:
    clips = list({sample.video: sample for sample in twins}.values())
    with progress_bar() as bar:
        task = bar.add_task("turning clips", total=len(clips))
        for _ in clip_map(run.recipe)(partial(write_turned, run.data), clips):
            bar.advance(task)

"""verl's prompts without those that are longer than `rl.max_prompt_length`: it would end at the step that draws one."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.files import whole_file
from launch.engines.verl.twins import with_twins
from launch.run import Run
from launch.run.checkpoints import last_rl_step
from launch.samples.lengths import too_long
from launch.samples.pass_rates import kept_ids


def fitting_prompts(run: Run) -> tuple[Path, int]:
    """The parquet file of the prompts that fit, and how many it has; by `rl.by_difficulty` those kept, in order.
    By `rl.twins` each is followed by its twin, which counts unless it is T-GRPO's contrast: that is not trained on.

    Those that do not fit are listed in rl/quarantine.jsonl. Where all are taken, it is the file that stage data made.

    Raises:
        LaunchError: a share above data.max_quarantined is too long, or no pass rates of these settings are there.
    """
    paths, chosen = run.paths, run.recipe.rl.by_difficulty
    long, total = too_long(run, "rl", paths.rl_quarantine, resumed=last_rl_step(paths) > 0)
    if not long and not chosen and not run.recipe.rl.twins.turns:
        return paths.verl_data("rl"), total
    table = pq.read_table(paths.verl_data("rl"))
    places = {id: place for place, id in enumerate(pc.struct_field(table["extra_info"], "id").to_pylist())}
    ids = [id for id in (kept_ids(run.recipe) if chosen else places) if id in places and id not in long]
    kept = table.take(pa.array([places[id] for id in ids], pa.int64()))
    if run.recipe.rl.twins.turns:
        kept = with_twins(run, kept)
    with whole_file(paths.rl_prompts, "wb") as out:
        pq.write_table(kept, out)
    trained = kept.filter(pc.invert(pc.ends_with(pc.struct_field(kept["extra_info"], "id"), "~shuffled")))
    return paths.rl_prompts, trained.num_rows

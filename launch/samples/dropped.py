"""Label files out of which records were dropped since stage data was done: it takes them without running again.

So a record that ends a stage can be dropped, and the stages that were under way go on: what was made of the others is
kept. Any other change of label files is left to the stage, which refuses other settings.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.exports import export, llamafactory_file
from data_tools.files import whole_file, write_json
from data_tools.labels import read_wanted
from data_tools.quarantine import read_rejected
from data_tools.sample import Sample, read_samples, write_samples
from launch.console import console
from launch.run import Run, owned, records, write_recipe
from launch.samples.labels import files_of, wanted

SPLITS = ("sft", "rl", "val")  # without the test split: results are reported on all of it
_SHOWN = 3  # ids that the manifest names


def take_drops(run: Run) -> None:
    """Leave out of data/ what the label files no longer hold, where nothing else in them changed.

    The manifest says what was dropped.

    Raises:
        LaunchError: another process works in the run folder, or other stages were done with another recipe.
    """
    record = None if run.recipe.force else run.record("data")
    if record is None or not _changed(run, record):
        return
    dropped = {split: _dropped(run, split) for split in SPLITS}
    if any(gone is None for gone in dropped.values()):
        return
    run.require_one_recipe(but=("data",))
    with owned(run.paths.lock, "data"):
        said = [_leave_out(run, split, gone) for split, gone in dropped.items() if gone]
        if said or record["settings"] != run.settings("data"):
            output = records.inventory(run.data)
            write_json(run.paths.record("data"), record | {"settings": run.settings("data"), "output": output})
            write_recipe(run, said)


def _changed(run: Run, record: dict[str, Any]) -> bool:
    """Whether the label files of training are others, or were written since the stage was done, and no setting else."""
    old, new = record["settings"], run.settings("data")
    others = [f"data.files.{split}" for split in SPLITS]
    if run.recipe.data.files is None or records.changed("data", old, new, but=tuple(others)):
        return False
    paths = [file.path for split in SPLITS for file in files_of(run.recipe, split)]
    if not all(path.exists() for path in paths):
        return False
    finished = datetime.fromisoformat(record["finished"]).timestamp()
    return old != new or any(path.stat().st_mtime > finished for path in paths)


def _dropped(run: Run, split: str) -> set[str] | None:
    """Ids of the samples that the label files no longer hold; None where they differ in something else."""
    files, path = files_of(run.recipe, split), run.paths.samples(split)
    if not files or not path.exists():
        return None if files or path.exists() else set()
    had = {sample.id: _said(sample) for sample in read_samples(path)}
    left_out = {rejected.record for rejected in read_rejected(run.paths.quarantine)}
    seen = set()
    for _, sample in read_wanted(files, split, wanted(run.recipe)):
        if had.get(sample.id, "") != _said(sample) and (sample.id in had or sample.id not in left_out):
            return None
        seen.add(sample.id)
    return had.keys() - seen if had.keys() & seen else None


def _said(sample: Sample) -> str:
    """What a sample asks, shows and answers, the same of its label and of the sample that stage data made of it."""
    keys = {"question", "options", "answer", "task", "chain", "spans", "boxes", "events"}
    part = sample.extras.get("source_part", [sample.start, sample.end])
    video = [sample.extras.get("source_video", sample.media[0]), *part]
    images = [] if "source_video" in sample.extras else sample.images  # else those that a clip was made into
    shown = sample.extras.get("source_images") or images or video
    return json.dumps([sample.model_dump(include=keys), shown], sort_keys=True)


def _leave_out(run: Run, split: str, gone: set[str]) -> str:
    """Write a split's files without the samples `gone`; what the manifest says of them.

    The samples come last: as long as they hold what was dropped, a killed call is seen, and done again.
    """
    path = run.paths.samples(split)
    before = sum(1 for _ in read_samples(path))
    if split == "sft":
        export(_without(gone, path), run.data, llamafactory_file(run.paths.llamafactory_data, run.recipe.form))
    else:
        table = pq.read_table(run.paths.verl_data(split))
        ids_N = pc.struct_field(table["extra_info"], "id")
        with whole_file(run.paths.verl_data(split), "wb") as out:
            pq.write_table(table.filter(pc.invert(pc.is_in(ids_N, value_set=pa.array(sorted(gone))))), out)
    write_samples(path, _without(gone, path))
    ids = sorted(gone)
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    said = f"{len(ids)} of {before} records of {split} dropped: {', '.join(ids[:_SHOWN])}{more}"
    console.print(f"  {said}", markup=False)
    return f"data: {said}"


def _without(gone: set[str], path: Path) -> Iterator[Sample]:
    return (sample for sample in read_samples(path) if sample.id not in gone)

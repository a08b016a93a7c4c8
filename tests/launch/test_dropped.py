"""Records that are dropped from label files while a run is under way: it goes on without them, and says so."""

import json

import pyarrow.parquet as pq
import pytest
from test_data_media import files

from data_tools.sample import read_samples, write_samples
from launch.data import prepare
from launch.errors import LaunchError
from launch.run import Run, run_of, stage
from launch.samples.dropped import take_drops


def do(run: Run, name: str, work) -> bool:
    take_drops(run) if name == "data" else None
    with stage(run, name) as needed:
        if needed:
            work()
    return needed


def stopped(run: Run) -> None:
    (run.paths.rl_checkpoints / "global_step_2").mkdir(parents=True)
    raise KeyboardInterrupt


def test_records_may_be_dropped_while_a_run_is_under_way(tiny_recipe, tmp_path, capsys):
    overrides = [*files(tmp_path, videos=3, broken=1), "data.max_quarantined=0.2", "rl.start_epoch=0"]
    run = run_of(tiny_recipe(*overrides))
    do(run, "data", lambda: prepare(run))
    do(run, "model", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        do(run, "rl", lambda: stopped(run))

    fewer = tmp_path / "fewer.jsonl"
    write_samples(fewer, [s for s in read_samples(tmp_path / "rl.jsonl") if s.id != "rl-1-0"])
    write_samples(tmp_path / "sft.jsonl", list(read_samples(tmp_path / "sft.jsonl"))[:-1])  # in its own place
    run = run_of(tiny_recipe(*overrides, f"data.files.rl={fewer}"))
    assert not do(run, "data", lambda: None)
    assert "1 of 6 records of rl dropped: rl-1-0" in " ".join(capsys.readouterr().out.split())
    assert len(list(read_samples(run.paths.samples("rl")))) == pq.read_table(run.paths.verl_data("rl")).num_rows == 5
    assert len(json.loads((run.paths.llamafactory_data / "sft.json").read_text())) == 3
    assert json.loads(run.paths.manifest.read_text())["loosened"] == [
        "data: 1 of 4 records of sft dropped: sft-2-1",
        "data: 1 of 6 records of rl dropped: rl-1-0",
    ]
    assert do(run, "rl", lambda: None)  # goes on from its checkpoint
    assert (run.paths.rl_checkpoints / "global_step_2").exists()
    with pytest.raises(LaunchError, match=r"other settings.*data\.files\.rl"):
        run_of(tiny_recipe(*overrides)).require("data")


@pytest.mark.parametrize("change", [{"answer": "B"}, {"id": "new"}, {"video": "rl1.mp4"}])
def test_records_that_are_changed_or_new_are_other_settings(tiny_recipe, tmp_path, change):
    overrides = files(tmp_path, videos=2)
    run = run_of(tiny_recipe(*overrides))
    do(run, "data", lambda: prepare(run))
    first, *rest = read_samples(tmp_path / "rl.jsonl")
    write_samples(tmp_path / "other.jsonl", [first.model_copy(update=change), *rest[1:]])
    with pytest.raises(LaunchError, match=r"was done with other settings: data\.files\.rl"):
        do(run_of(tiny_recipe(*overrides, f"data.files.rl={tmp_path / 'other.jsonl'}")), "data", lambda: None)
    assert len(list(read_samples(run.paths.samples("rl")))) == 4

"""What an interrupted run leaves half done is set aside, not used and not lost."""

import json
from pathlib import Path

from launch.predict import whole_lines
from launch.rl import forget_steps_after_checkpoint, last_checkpoint
from launch.sft import last_whole_checkpoint


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(str(step))
    (path / "trainer_state.json").write_text("{}")
    (path / "processor_config.json").write_text("{}" if whole else "")
    return path


def test_half_written_sft_checkpoints_are_set_aside(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 200, whole=False)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-100"  # by number, not by name
    assert (tmp_path / "incomplete-checkpoint-200" / "model.safetensors").read_text() == "200"
    (checkpoint(tmp_path, 200) / "processor_config.json").unlink()  # and again
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_rl_steps_after_the_checkpoint_are_forgotten(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "rollouts").mkdir()
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "data": {}}) for step in (1, 2, 3)]
    metrics.write_text("\n".join(lines) + '\n{"step": 4, "da')
    for step in (1, 2, 3):
        (tmp_path / "rollouts" / f"{step}.jsonl").write_text("{}\n")
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    assert last_checkpoint(tmp_path) == forget_steps_after_checkpoint(tmp_path) == 2
    assert metrics.read_text().splitlines() == lines[:2]
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == ["1.jsonl", "2.jsonl"]


def test_without_a_checkpoint_rl_begins_anew(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert forget_steps_after_checkpoint(tmp_path) == 0
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_half_written_prediction_is_cut_off(tmp_path):
    path = tmp_path / "predictions.jsonl"
    assert whole_lines(path) == set()
    path.write_text('{"id": "a", "response": "é"}\n{"id": "b"}\n{"id": "c", "respo')
    assert whole_lines(path) == {"a", "b"}
    assert path.read_text().endswith('{"id": "b"}\n')
    path.write_text('{"id": "a"')
    assert whole_lines(path) == set() and path.read_text() == ""

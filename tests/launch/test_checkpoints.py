"""What an interrupted run leaves unfinished is set aside: not used, and not lost."""

import json
from pathlib import Path

from data_tools.run_folder import RunFolder
from launch.engines.vllm.job import answered_ids
from launch.run.checkpoints import last_rl_step, resume_rl, resume_sft, rl_steps, sft_steps


def checkpoint(run: RunFolder, step: int, last: str = "{}") -> Path:
    """A checkpoint of SFT whose file that is written last has the content `last`."""
    path = run.sft / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(str(step))
    (path / "trainer_state.json").write_text("{}")
    (path / "processor_config.json").write_text(last)
    return path


def test_truncated_sft_checkpoints_are_set_aside(tmp_path):
    run = RunFolder(tmp_path)
    assert resume_sft(run) is None
    checkpoint(run, 9)
    checkpoint(run, 100, '{"video_processor": {}}')
    checkpoint(run, 200, "")
    checkpoint(run, 300, '{"video_proc')
    assert resume_sft(run) == run.sft / "checkpoint-100"  # by number, not by name
    assert (run.sft / "incomplete-checkpoint-200" / "model.safetensors").read_text() == "200"
    assert (run.sft / "incomplete-checkpoint-300").exists()
    (checkpoint(run, 200) / "processor_config.json").unlink()  # and again
    assert resume_sft(run) == run.sft / "checkpoint-100"


def test_sft_steps_that_are_repeated_are_logged_once(tmp_path):
    run = RunFolder(tmp_path)
    checkpoint(run, 4)
    assert resume_sft(run) is not None and sft_steps(run) == 0  # a run without a log
    run.sft_log.write_text("".join(json.dumps({"current_steps": step}) + "\n" for step in (2, 4, 6)) + '{"current_st')
    assert sft_steps(run) == 6
    assert resume_sft(run) is not None and sft_steps(run) == 4
    assert [json.loads(line)["current_steps"] for line in run.sft_log.read_text().splitlines()] == [2, 4]


def test_without_a_checkpoint_sft_starts_with_an_empty_log(tmp_path):
    run = RunFolder(tmp_path)
    run.sft.mkdir()
    run.sft_log.write_text('{"current_steps": 5}\n')
    assert resume_sft(run) is None and sft_steps(run) == 0


def test_rl_steps_after_the_checkpoint_are_dropped(tmp_path):
    run = RunFolder(tmp_path)
    run.rl_checkpoints.mkdir(parents=True)
    run.rollouts.mkdir()
    lines = [json.dumps({"step": step, "data": {}}) for step in (1, 2, 3)]
    run.rl_metrics.write_text("\n".join(lines) + '\n{"step": 4, "da')
    assert rl_steps(run) == 3
    for step in (1, 2, 3):
        (run.rollouts / f"{step}.jsonl").write_text("{}\n")
    (run.rl_checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
    assert last_rl_step(run) == resume_rl(run) == 2
    assert run.rl_metrics.read_text().splitlines() == lines[:2]
    assert sorted(path.name for path in run.rollouts.iterdir()) == ["1.jsonl", "2.jsonl"]


def test_without_a_checkpoint_rl_starts_from_the_first_step(tmp_path):
    run = RunFolder(tmp_path)
    run.rl.mkdir()
    run.rl_metrics.write_text('{"step": 1}\n')
    assert resume_rl(run) == 0
    assert run.rl_metrics.read_text() == ""


def test_a_truncated_prediction_is_cut_off(tmp_path):
    path = tmp_path / "predictions.jsonl"
    assert answered_ids(path) == set()
    path.write_text('{"id": "a", "response": "é"}\n{"id": "b"}\n{"id": "c", "respo')
    assert answered_ids(path) == {"a", "b"}
    assert path.read_text().endswith('{"id": "b"}\n')
    path.write_text('{"id": "a"')
    assert answered_ids(path) == set() and path.read_text() == ""

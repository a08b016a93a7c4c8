"""Checkpoints of SFT and RL: which is the last whole one, and what is dropped to resume from it."""

import json
import shutil
from pathlib import Path

from data_tools.files import whole_lines, write_text
from data_tools.run_folder import RunFolder
from launch.console import console

# ------------------------------------------------------------ SFT


def resume_sft(folder: RunFolder) -> Path | None:
    """The last whole checkpoint, if there is one; the log then ends at its step.

    A truncated checkpoint is renamed, with a warning.
    """
    whole = []
    for path in sft_checkpoints(folder):
        if _is_json(path / "processor_config.json"):  # LLaMA-Factory writes it last, after all files of transformers
            whole.append(path)
        else:
            aside = path.with_name(f"incomplete-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            console.print(f"  [yellow]warning[/] {path} is truncated: kept as {aside.name}, not used")
    if not whole:
        folder.sft_log.unlink(missing_ok=True)
        return None
    _drop_steps_after(_sft_step(whole[-1]), folder.sft_log, "current_steps")
    return whole[-1]


def sft_checkpoints(folder: RunFolder) -> list[Path]:
    """By step."""
    return sorted(folder.sft.glob("checkpoint-*"), key=_sft_step)


def sft_steps(folder: RunFolder) -> int:
    """Optimizer steps of SFT that are logged."""
    lines = whole_lines(folder.sft_log)
    return int(json.loads(lines[-1])["current_steps"]) if lines else 0


def _sft_step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # its writer was killed, or the disk was full
        return False
    return True


# ------------------------------------------------------------ RL


def resume_rl(folder: RunFolder) -> int:
    """Step of the last whole checkpoint, 0 if there is none; what later steps left is deleted."""
    step = last_rl_step(folder)
    _drop_steps_after(step, folder.rl_metrics, "step")
    _drop_steps_after(step, folder.held_out, "step")
    for answers in (*folder.rollout_files(), *folder.held_out_files()):
        if int(answers.stem) > step:
            answers.unlink()
    return step


def last_rl_step(folder: RunFolder) -> int:
    """Step of the last whole checkpoint, 0 if there is none: verl names it only after all of it is written."""
    tracker = folder.rl_checkpoints / "latest_checkpointed_iteration.txt"
    return int(tracker.read_text()) if tracker.exists() else 0


def steps_in(folder: Path) -> list[int]:
    """Steps of its checkpoints, global_step_<step>, in order."""
    names = [path.name.removeprefix("global_step_") for path in folder.glob("global_step_*")]
    return sorted(int(name) for name in names if name.isdigit())  # others are not yet whole


def rl_steps(folder: RunFolder) -> int:
    """The last RL step whose metrics are logged; one that was killed after its checkpoint may have none."""
    lines = whole_lines(folder.rl_metrics) if folder.rl_metrics.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _drop_steps_after(step: int, log: Path, key: str) -> None:
    """Keep the records of a log up to a step; a truncated last line goes too."""
    if log.exists():
        kept = [line for line in whole_lines(log) if json.loads(line)[key] <= step]
        write_text(log, "".join(line + "\n" for line in kept))

"""The val split, answered greedily by RL's own rollout servers; the checkpoint that answers it best is kept."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from verl.utils import tensordict_utils as tu

from data_tools.exports import sample_of
from data_tools.files import append_line, whole_folder, whole_lines, write_text
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample
from evaluation.grading import run_schema
from evaluation.held_out import Record, best_of, decline, read_held_out, scored
from evaluation.predictions import Prediction
from launch.verl_plugin.queue import RolloutError, plain

_OF_TRAINING = ("optim_", "extra_state_")  # files of a checkpoint that a merge does not read


class HeldOut:
    """Evaluations of a run.

    Args:
        settings: of the recipe, rl.held_out, and `run`, the run folder.
        reward: the recipe's, whose schema the responses have.
    """

    def __init__(self, settings: Any, reward: dict[str, Any], seed: int) -> None:
        self.settings, self.schema, self.seed = settings, run_schema(reward), seed
        self.run = RunFolder(Path(settings["run"]))

    def missing(self, step: int, last: bool) -> bool:
        """Whether the evaluation of a step is due and not there: of the first, or after a kill."""
        due = last or step % self.settings["every"] == 0
        return due and all(record["step"] != step for record in read_held_out(self.run.held_out))

    def evaluate(self, trainer: Any, step: int) -> tuple[dict[str, float], bool]:
        """Ask and record, keep the best checkpoint, and say where the rule holds.

        Returns:
            metrics, and whether training ends.
        """
        samples, predictions = ask(trainer, step)
        before = read_held_out(self.run.held_out)
        reward = self._reward(before[-1]["step"] if before else 0, step)
        record = scored(step, samples, predictions, self.schema, reward, self.seed)
        record["saved"] = (self.run.rl_checkpoints / f"global_step_{step}" / "actor").exists()
        records, metric = [*before, record], self.settings["metric"]
        best = best_of(records, metric)
        warning = decline(records, metric, self.settings["patience"], self.settings["rule"])
        ends = warning is not None and self.settings["then"] == "end"
        if warning:
            logging.getLogger(__name__).warning("val split, step %d: %s", step, warning)
            record |= {"warning": warning, "ended": ends}
        if record["saved"] and best_of([one for one in records if one["saved"]], metric) is record:
            keep(self.run, step)
        lines = (answer.model_dump_json(exclude_none=True) + "\n" for answer in predictions.values())
        write_text(self.run.held_out_answers / f"{step}.jsonl", "".join(lines))
        append_line(self.run.held_out, record)
        return metrics(record) | {"held_out/best_step": float(best["step"])}, ends

    def _reward(self, since: int, step: int) -> float | None:
        """Mean reward of the steps since an evaluation, that one's included; this one's is not logged yet."""
        lines = map(json.loads, whole_lines(self.run.rl_metrics) if self.run.rl_metrics.exists() else [])
        values = [line["data"].get("reward/overall") for line in lines if since <= line["step"] < step]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None


def ask(trainer: Any, step: int) -> tuple[list[Sample], dict[str, Prediction]]:
    """The val split and its greedy answers.

    Raises:
        RolloutError: one failed.
    """
    samples: list[Sample] = []
    predictions: dict[str, Prediction] = {}
    for rows in trainer.val_dataloader:
        names = [f"val{step:06d}.{len(samples) + i:05d}" for i in range(len(rows["raw_prompt"]))]
        samples += [sample_of(info) for info in rows["extra_info"]]
        batch = tu.get_tensordict(rows | {"uid": np.array(names, dtype=object)})
        tu.assign_non_tensor_data(batch, "global_steps", trainer.global_steps)
        tu.assign_non_tensor_data(batch, "validate", True)
        tag = {"is_prompt": True, "status": "pending", "global_steps": trainer.global_steps}
        tq.kv_batch_put(keys=names, partition_id="val", tags=[dict(tag) for _ in names])
        trainer.agent_loop_manager.generate_sequences(batch)
        answered, _ = trainer.replay_buffer.sample(
            global_steps=trainer.global_steps, partition_id="val", batch_size=len(names)
        )
        fields = ["responses", "extra_info"]
        data = tq.kv_batch_get(keys=answered.keys, partition_id="val", select_fields=fields)
        for info, ids in zip(plain(data["extra_info"]), data["responses"].unbind()):
            whole = int(ids[-1]) == trainer.tokenizer.eos_token_id
            text = trainer.tokenizer.decode(ids, skip_special_tokens=True)
            predictions[info["id"]] = Prediction(
                id=info["id"], response=text, finish_reason="stop" if whole else "length"
            )
        tq.kv_clear(keys=answered.keys, partition_id="val")
    if len(predictions) < len(samples):
        lost = next(sample.id for sample in samples if sample.id not in predictions)
        count = len(samples) - len(predictions)
        raise RolloutError(f"{count} questions of the val split failed, {lost} first: see above")
    return samples, predictions


def metrics(record: Record) -> dict[str, float]:
    """A record as verl logs it: `held_out/<metric>`, and the interval's ends as `/low` and `/high`."""
    low, high = record["ci"] or (None, None)
    named = {name: record[name] for name in ("balanced_accuracy", "accuracy", "format", "fidelity")}
    named |= {"balanced_accuracy/low": low, "balanced_accuracy/high": high}
    return {f"held_out/{name}": float(value) for name, value in named.items() if value is not None}


def keep(run: RunFolder, step: int) -> None:
    """Keep what a merge reads of a step's checkpoint, in place of the best before.

    Files are linked, or copied where the file system has no hard links: verl deletes its own later.
    """
    name = f"global_step_{step}"
    actor, best = run.rl_checkpoints / name / "actor", run.rl_best / name
    if not best.exists():  # it does where training goes on after a kill
        run.rl_best.mkdir(exist_ok=True)
        with whole_folder(best) as folder:
            shutil.copytree(actor, folder / "actor", ignore=_not_merged, copy_function=_link)
    for other in run.rl_best.iterdir():
        if other.name != name:
            shutil.rmtree(other)


def _not_merged(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(_OF_TRAINING)}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""verl's synchronous V1 trainer, with tasks and reward components handed to the advantage estimator.

verl 0.9.1 gives an estimator the token-level rewards, the mask and the group ids, and nothing else
(trainer/ppo/ray_trainer.py:248), keeps no state for it, and logs no reward component while training.
"""

import contextvars
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorData, NonTensorStack
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from rewards.advantages import ESTIMATORS

STATE_FILE = "advantage_state.json"


@dataclass
class _Batch:
    """What the estimator needs of a batch and verl does not pass on; rows as verl holds them."""

    estimator: Any
    tasks: list[str]
    real: torch.Tensor  # (B,) bool, False for the rows that verl adds to fill a batch


_current: contextvars.ContextVar[_Batch] = contextvars.ContextVar("batch")


@register_adv_est("camreasoner")
def _advantages(token_level_rewards, response_mask, index, config=None, **_):
    """Advantages (B, T): one number per response, on all its tokens; 0 on rows that only fill the batch."""
    batch = _current.get()
    rows = batch.real.nonzero().squeeze(1)
    scores = token_level_rewards.sum(-1)
    groups = [str(index[row]) for row in rows.tolist()]
    tasks = [batch.tasks[row] for row in rows.tolist()]
    advantages = torch.zeros_like(scores)
    advantages[rows] = batch.estimator.advantages(scores[rows], groups, tasks)
    advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


@register_trainer("camreasoner")
class Trainer(PPOTrainerSync):
    """Synchronous trainer with a stateful advantage estimator and repeatable batches.

    `algorithm.camreasoner` holds `{"name": ..., **settings}` of the estimator.
    """

    # The base class asks for the name "sync" (trainer_base.py: replay buffer, checkpoints), and takes any other name
    # for an asynchronous trainer.
    trainer_mode = property(lambda self: "sync", lambda self, _: None)

    def __init__(self, config) -> None:
        settings = OmegaConf.to_container(config.algorithm.camreasoner, resolve=True)
        self.estimator = ESTIMATORS[settings.pop("name")](**settings)
        self._fetched = 0
        super().__init__(config)
        self.replay_buffer.poll_interval = 0.1  # seconds; verl's 2 are most of a short step

    # ---------------------------------------------------------------- batches that can be repeated

    def on_step_begin(self) -> None:
        self._fetched = 0
        super().on_step_begin()

    def _fetch_one_gen_batch(self):
        """verl's next prompts, named by step and place instead of by random ids: sampling seeds hang on the names."""
        batch = super()._fetch_one_gen_batch()
        names = [f"step{self.global_steps:06d}.{self._fetched + i:05d}" for i in range(len(batch))]
        self._fetched += len(batch)
        batch["uid"] = NonTensorStack.from_list([NonTensorData(name) for name in names])
        return batch

    def _balance_batch(self, batch, metrics, **kwargs):
        """Rollouts arrive in any order; mini-batches must not depend on it."""
        batch.reorder(sorted(range(len(batch)), key=lambda row: _row_order(batch.keys[row])))
        return super()._balance_batch(batch, metrics, **kwargs)

    # ---------------------------------------------------------------- advantage

    def _compute_advantage(self, batch, metrics):
        records = self._records(batch)
        current = _Batch(
            estimator=self.estimator,
            tasks=[record["task"] for record in records],
            real=torch.tensor([not tag.get("is_padding", False) for tag in batch.tags]),
        )
        token = _current.set(current)
        try:
            batch = super()._compute_advantage(batch, metrics)
        finally:
            _current.reset(token)
        real = [record for record, keep in zip(records, current.real.tolist()) if keep]
        metrics.update(reward_metrics(real))
        metrics.update(self.estimator.metrics())
        return batch

    def _records(self, batch) -> list[dict[str, Any]]:
        """Task, sample id and reward components of each row."""
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_info", "extra_fields"]
        )
        rows = []
        for info, extra in zip(_plain(data["extra_info"]), _plain(data["extra_fields"])):
            components = {key: float(value) for key, value in extra["reward_extra_info"].items()}
            rows.append({"id": info["id"], "task": info["task"], **components})
        return rows

    # ---------------------------------------------------------------- records

    def _log_rollout_data(self, batch, timing_raw, rollout_data_dir) -> None:
        """One JSON line per rollout: everything that rewards and advantages can be recomputed from."""
        fields = ["prompts", "responses", "advantages"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        limit = self.config.data.max_response_length
        lines = []
        for row, record in enumerate(self._records(batch)):
            if batch.tags[row].get("is_padding", False):
                continue
            response, advantages = data["responses"][row], data["advantages"][row]
            lines.append(
                {
                    "step": self.global_steps,
                    "rollout": batch.keys[row],
                    **record,
                    "advantage": round(float(advantages[0]), 6),
                    "prompt": self.tokenizer.decode(data["prompts"][row], skip_special_tokens=True),
                    "response": self.tokenizer.decode(response, skip_special_tokens=True),
                    "response_tokens": len(response),
                    "truncated": len(response) >= limit and int(response[-1]) != self.tokenizer.eos_token_id,
                }
            )
        path = Path(rollout_data_dir) / f"{self.global_steps}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        partial.replace(path)

    # ---------------------------------------------------------------- state

    def _step_folder(self) -> Path:
        return Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"

    def _save_checkpoint(self) -> None:
        # Before super(): latest_checkpointed_iteration.txt must never name a folder without the state.
        folder = self._step_folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATE_FILE).write_text(json.dumps(self.estimator.state_dict()))
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps > 0:
            self.estimator.load_state_dict(json.loads((self._step_folder() / STATE_FILE).read_text()))


def reward_metrics(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Means of the reward components, over all rollouts and by task."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name in ("id", "task"):
                continue
            name = "overall" if name == "score" else name
            values[f"reward/{name}"].append(value)
            values[f"reward/{name}/{record['task']}"].append(value)
    return {name: float(np.mean(numbers)) for name, numbers in sorted(values.items())}


def _row_order(key: str) -> tuple[str, int, int]:
    """A row's key is prompt_rollout_output (agent_loop_tq.py)."""
    prompt, rollout, output = key.rsplit("_", 2)
    return prompt, int(rollout), int(output)


def _plain(column: Any) -> list[Any]:
    """verl's non-tensor columns hold bare values or wrappers, by transport."""
    return [getattr(value, "data", value) for value in list(column)]

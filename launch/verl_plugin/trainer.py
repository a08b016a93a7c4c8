"""verl's synchronous V1 trainer, with tasks, reward components and segments handed to the advantage estimator.

verl 0.9.1 gives an estimator the token-level rewards, the mask and the group ids, and nothing else
(trainer/ppo/ray_trainer.py:248), keeps no state for it, and logs no reward component while training.
"""

import contextvars
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorData, NonTensorStack
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from launch.verl_plugin.meters import step_meters
from launch.verl_plugin.queue import plain, row_order
from rewards.advantages import ESTIMATORS

STATE_FILE, FILTER_FILE = "advantage_state.json", "filter_state.pt"


@dataclass
class _Batch:
    """What the estimator needs of a batch and verl does not pass on.

    Attributes:
        records: of each real row, as `Trainer._records` gives them.
        real_B: bool, False for the rows that verl adds to fill a batch.
    """

    estimator: Any
    records: list[dict[str, Any]]
    real_B: torch.Tensor


_current: contextvars.ContextVar[_Batch] = contextvars.ContextVar("batch")


@register_adv_est("camreasoner")
def _advantages(token_level_rewards, response_mask, index, config=None, **_):
    """Advantages (B, T); 0 on rows that only fill the batch."""
    batch = _current.get()
    real = batch.real_B.nonzero().squeeze(1)
    rewards_BT = token_level_rewards[real]
    advantages = torch.zeros_like(token_level_rewards)
    advantages[real] = estimate(batch.estimator, batch.records, rewards_BT)
    advantages = advantages * response_mask
    return advantages, advantages


def estimate(estimator: Any, records: list[dict[str, Any]], rewards_BT: torch.Tensor) -> torch.Tensor:
    """Advantages (B, T) of rollouts with these records and token-level rewards (B, T), the padding included."""

    def column_B(name: str) -> torch.Tensor:
        return torch.tensor([record[name] for record in records], dtype=rewards_BT.dtype)

    groups = [record["group"] for record in records]
    judged_B = column_B("unjudged") == 0 if "unjudged" in records[0] else None
    if hasattr(estimator, "token_advantages"):
        # Perception is all up to the end of the observation, counted in the response's own tokens by the reward worker.
        perception_BT = torch.arange(rewards_BT.shape[1]) < column_B("perception_tokens").unsqueeze(1)
        rewards = column_B("perception"), column_B("reasoning")
        return estimator.token_advantages(*rewards, groups, perception_BT, ~perception_BT, judged_B)
    tasks = [record["task"] for record in records]
    return estimator.advantages(rewards_BT.sum(1), groups, tasks, judged_B).unsqueeze(1).expand_as(rewards_BT)


@register_trainer("camreasoner")
class Trainer(PPOTrainerSync):
    """Synchronous trainer with a stateful advantage estimator, repeatable batches and online filtering.

    `algorithm.camreasoner.advantage` holds `{"name": ..., **settings}` of the estimator.
    """

    # The base class asks for the name "sync" (trainer_base.py: replay buffer, checkpoints), and takes any other name
    # for an asynchronous trainer.
    trainer_mode = property(lambda self: "sync", lambda self, _: None)

    def __init__(self, config) -> None:
        settings = OmegaConf.to_container(config.algorithm.camreasoner.advantage, resolve=True)
        self.estimator = ESTIMATORS[settings.pop("name")](**settings)
        if hasattr(self.estimator, "token_advantages") and config.algorithm.use_kl_in_reward:
            raise ValueError(
                "a KL term in the reward does not reach rewards by process; use rl.kl_coef, a term of the loss"
            )
        self._fetched = 0
        super().__init__(config)

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
        batch.reorder(sorted(range(len(batch)), key=lambda row: row_order(batch.keys[row])))
        return super()._balance_batch(batch, metrics, **kwargs)

    # ---------------------------------------------------------------- advantage

    def _compute_advantage(self, batch, metrics):
        real_B = torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])
        fields = ["extra_info", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        records = [record for record, real in zip(_records(batch.keys, data), real_B.tolist()) if real]
        token = _current.set(_Batch(self.estimator, records, real_B))
        try:
            batch = super()._compute_advantage(batch, metrics)
        finally:
            _current.reset(token)
        metrics.update(step_meters(records, len(self._truncated(batch))))
        metrics.update(self.estimator.metrics())
        return batch

    def _truncated(self, batch) -> set[str]:
        """Keys of the rollouts that were cut at the token limit."""
        limit = self.config.data.max_response_length
        long = [key for key, tag in zip(batch.keys, batch.tags) if tag["response_len"] >= limit]
        if not long:
            return set()
        data = tq.kv_batch_get(keys=long, partition_id=batch.partition_id, select_fields=["responses"])
        return {
            key for key, ids in zip(long, data["responses"].unbind()) if int(ids[-1]) != self.tokenizer.eos_token_id
        }

    # ---------------------------------------------------------------- records

    def _log_rollout_data(self, batch, timing_raw, rollout_data_dir) -> None:
        """One JSON line per rollout: everything that rewards and advantages can be recomputed from."""
        fields = ["extra_info", "extra_fields", "prompts", "responses", "advantages"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        samples = [_sample(info) for info in plain(data["extra_info"])]
        truncated = self._truncated(batch)
        lines, prompts = [], {}
        for row, record in enumerate(_records(batch.keys, data)):
            if batch.tags[row].get("is_padding", False):
                continue
            response, advantages = data["responses"][row], data["advantages"][row]
            group = record["group"]
            if group not in prompts:  # thousands of placeholders long where a clip is
                prompts[group] = self.tokenizer.decode(data["prompts"][row], skip_special_tokens=True)
            if record.get("perception_tokens"):
                record["advantage_perception"] = round(float(advantages[0]), 6)
            lines.append(
                {
                    "step": self.global_steps,
                    "rollout": batch.keys[row],
                    **{name: value for name, value in record.items() if not name.startswith("judge/")},
                    "advantage": round(float(advantages[-1]), 6),
                    "prompt": prompts[group],
                    "response": self.tokenizer.decode(response, skip_special_tokens=True),
                    "response_tokens": len(response),
                    "truncated": batch.keys[row] in truncated,
                    "sample": samples[row],
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
        if self.replay_buffer.filter is not None:
            torch.save(self.replay_buffer.state_dict(), folder / FILTER_FILE)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        self.estimator.load_state_dict(json.loads((self._step_folder() / STATE_FILE).read_text()))
        state = self._step_folder() / FILTER_FILE
        if self.replay_buffer.filter is not None and state.exists():  # not where filtering was switched on since
            self.replay_buffer.load_state_dict(torch.load(state, weights_only=True))


def _records(keys: list[str], data: Any) -> list[dict[str, Any]]:
    """Sample id, task, group and reward components of each row, and what else the reward worker found."""
    rows = zip(keys, plain(data["extra_info"]), plain(data["extra_fields"]))
    return [
        {"id": info["id"], "task": info["task"], "group": row_order(key)[0], **extra["reward_extra_info"]}
        for key, info, extra in rows
    ]


def _sample(info: dict[str, Any]) -> dict[str, Any]:
    """The sample's fields without its chain, which no reward reads."""
    sample = json.loads(info["sample"])
    sample.pop("chain", None)
    return sample

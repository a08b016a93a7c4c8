"""verl's synchronous V1 trainer, with tasks, reward components and segments handed to the advantage estimator.

verl 0.9.1 gives an estimator the token-level rewards, the mask and the group ids, and nothing else
(trainer/ppo/ray_trainer.py:248), keeps no state for it, and logs no reward component while training.
"""

import contextvars
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from tensordict.tensorclass import NonTensorData, NonTensorStack
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from data_tools.files import write_text
from data_tools.run_folder import RunFolder
from evaluation.rollouts.records import Rollout
from launch.verl_plugin.held_out import HeldOut
from launch.verl_plugin.media_table import log_rollouts
from launch.verl_plugin.metrics import Scored, step_metrics
from launch.verl_plugin.prefix import OLD_FROM_UPDATE
from launch.verl_plugin.queue import plain, row_order
from rewards.advantages import Advantages, Batch, Estimator, build
from rewards.relation import Answer, relations
from rewards.temporal import temporal

STATE_FILE, FILTER_FILE = "advantage_state.json", "filter_state.pt"
ROUTER = Path(__file__).with_name("router.yaml")


@dataclass
class _Batch:
    """What the estimator needs of a batch and verl does not pass on.

    Attributes:
        scored: the real rows.
        real_B: bool, False for verl's padding rows.
    """

    estimator: Estimator
    scored: list[Scored]
    real_B: torch.Tensor


_current: contextvars.ContextVar[_Batch] = contextvars.ContextVar("batch")


@register_adv_est("camreasoner")
def _advantages(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages (B, T) as the loss weighs them, and as they are in place of returns; 0 on padding rows."""
    batch = _current.get()
    real = batch.real_B.nonzero().squeeze(1)
    rewards = token_level_rewards[real]  # a copy
    rewards[:, 0] += torch.tensor([row.bonus for row in batch.scored], dtype=rewards.dtype, device=rewards.device)
    weighted, plain = torch.zeros_like(token_level_rewards), torch.zeros_like(token_level_rewards)
    found = estimate(batch.estimator, batch.scored, rewards, response_mask[real].sum(1))
    weighted[real], plain[real] = found.weighted(response_mask[real]), found.tokens(response_mask[real])
    return weighted, plain


def estimate(
    estimator: Estimator, scored: list[Scored], rewards_BT: torch.Tensor, tokens_B: torch.Tensor
) -> Advantages:
    """Advantages of rollouts with token-level rewards (B, T) and so many tokens (B,)."""
    components = [row.components for row in scored]
    groups, tasks = [row.group for row in scored], [row.task for row in scored]
    return estimator.advantages(Batch.of(components, groups, tasks, rewards_BT.sum(1), tokens_B))


@register_trainer("camreasoner")
class Trainer(PPOTrainerSync):
    """Synchronous trainer with a stateful advantage estimator, repeatable batches and online filtering.

    `algorithm.camreasoner.advantage` holds `{"name": ..., **settings}` of the estimator, `held_out` the settings of
    `HeldOut`, or None.
    """

    # The base class asks for the name "sync" (trainer_base.py: replay buffer, checkpoints), and takes any other name
    # for an asynchronous trainer.
    trainer_mode = property(lambda self: "sync", lambda self, _: None)

    def __init__(self, config: Any) -> None:
        settings: Any = OmegaConf.to_container(config.algorithm.camreasoner.advantage, resolve=True)
        self.estimator = build(settings)
        if self.estimator.reads and config.algorithm.use_kl_in_reward:
            raise ValueError("a KL term in the reward does not reach its components; use rl.kl_coef, a loss term")
        ours: Any = OmegaConf.to_container(config.algorithm.camreasoner, resolve=True)
        self.relation_weight: float = ours["relation_weight"]
        self.temporal: dict[str, float] | None = ours["temporal"]
        self.old_every: int = ours["old_log_probs_every"]
        self.held_out = HeldOut(ours["held_out"], ours["reward"], config.data.seed) if ours["held_out"] else None
        self._fetched = 0
        if ours["shared_media"]:
            with open_dict(rollout := config.actor_rollout_ref.rollout):
                rollout.router_config_path = rollout.get("router_config_path") or str(ROUTER)
        super().__init__(config)

    # ---------------------------------------------------------------- repeatable batches

    def on_step_begin(self) -> None:
        self._fetched = 0
        super().on_step_begin()

    def _fetch_one_gen_batch(self) -> Any:
        """verl's next prompts, named by step and index instead of by random ids: the names seed the sampling."""
        batch = super()._fetch_one_gen_batch()
        names = [f"step{self.global_steps:06d}.{self._fetched + i:05d}" for i in range(len(batch))]
        self._fetched += len(batch)
        batch["uid"] = NonTensorStack.from_list([NonTensorData(name) for name in names])
        return batch

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], **kwargs: Any) -> Any:
        """Rollouts arrive in any order; mini-batches must not depend on it. The rollouts of a prompt share a rank."""
        batch.reorder(sorted(range(len(batch)), key=lambda row: row_order(batch.keys[row])))
        batch = super()._balance_batch(batch, metrics, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        if ranks > 1:
            padding = [tag.get("is_padding", False) for tag in batch.tags]
            groups = [key if alone else row_order(key)[0] for key, alone in zip(batch.keys, padding)]
            batch.reorder(whole_groups(groups, [tag["seq_len"] for tag in batch.tags], ranks))
        return batch

    # ---------------------------------------------------------------- val split

    def on_train_begin(self) -> None:
        super().on_train_begin()
        step = self.global_steps - 1  # of the weights that are there
        if self.held_out and self.held_out.missing(step, last=step >= self.total_training_steps):
            self._evaluate(self.held_out, step)

    def _validate(self) -> dict[str, float]:
        assert self.held_out is not None  # trainer.test_freq
        return self._evaluate(self.held_out, self.global_steps)

    def _evaluate(self, held_out: HeldOut, step: int) -> dict[str, float]:
        metrics, ends = held_out.evaluate(self, step)
        if ends:
            self.total_training_steps = step
        return metrics

    # ---------------------------------------------------------------- old log-probabilities

    @property
    def _old_from_update(self) -> bool:
        """Whether this step leaves out their own pass; the others have it, to compare them with the rollouts'."""
        return (self.global_steps - 1) % self.old_every != 0

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        if not self._old_from_update:
            return super()._compute_old_log_prob(batch, metrics)
        # verl asks for some before the update, and compares them with these: a difference of 0, which is not logged.
        known = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["rollout_log_probs"])
        known["old_log_probs"] = known.pop("rollout_log_probs")
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=known)
        return batch

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch.extra_info[OLD_FROM_UPDATE] = self._old_from_update
        batch = super()._update_actor(batch, metrics)
        if self._old_from_update:
            metrics["actor/entropy"] = metrics["actor/entropy_loss"]
        return batch

    # ---------------------------------------------------------------- advantage

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        real_B = torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])
        fields = ["extra_info", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        scored = list(self._scores(batch, data).values())
        token = _current.set(_Batch(self.estimator, scored, real_B))
        try:
            batch = super()._compute_advantage(batch, metrics)
        finally:
            _current.reset(token)
        if self._old_from_update:
            for name in [name for name in metrics if name.startswith("rollout_corr/")]:
                del metrics[name]
        metrics.update(step_metrics(scored, len(self._truncated(batch))))
        metrics.update(self.estimator.metrics())
        return batch

    def _scores(self, batch: Any, data: Any) -> dict[int, Scored]:
        """Row -> what its response earns; without padding rows."""
        scored = _scored(batch, data, self.relation_weight)
        if self.temporal is None:
            return scored
        return dict(zip(scored, contrasted(list(scored.values()), self.replay_buffer.shuffled, **self.temporal)))

    def _truncated(self, batch: Any) -> set[str]:
        """Keys of the rollouts that were truncated at the token limit."""
        limit = self.config.data.max_response_length
        long = [key for key, tag in zip(batch.keys, batch.tags) if tag["response_len"] >= limit]
        if not long:
            return set()
        data = tq.kv_batch_get(keys=long, partition_id=batch.partition_id, select_fields=["responses"])
        return {
            key for key, ids in zip(long, data["responses"].unbind()) if int(ids[-1]) != self.tokenizer.eos_token_id
        }

    # ---------------------------------------------------------------- records

    def _log_rollout_data(self, batch: Any, timing_raw: Any, rollout_data_dir: str) -> None:
        """Write one record per rollout: all that is needed to recompute rewards and advantages."""
        fields = ["extra_info", "extra_fields", "prompts", "responses", "returns"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        samples = [_sample(info) for info in plain(data["extra_info"])]
        truncated = self._truncated(batch)
        rollouts: list[Rollout] = []
        prompts: dict[str, str] = {}
        for row, scored in self._scores(batch, data).items():
            response, advantages = data["responses"][row], data["returns"][row]  # not yet weighted
            if scored.group not in prompts:  # thousands of placeholders long where a clip is
                prompts[scored.group] = self.tokenizer.decode(data["prompts"][row], skip_special_tokens=True)
            perception = float(advantages[0]) if scored.components.get("perception_tokens") else None
            rollout = Rollout(
                step=self.global_steps,
                rollout=batch.keys[row],
                id=scored.id,
                task=scored.task,
                group=scored.group,
                malformed=scored.malformed,
                mismatch=scored.mismatch,
                advantage=round(float(advantages[-1]), 6),
                advantage_perception=None if perception is None else round(perception, 6),
                prompt=prompts[scored.group],
                response=self.tokenizer.decode(response, skip_special_tokens=True),
                response_tokens=len(response),
                truncated=batch.keys[row] in truncated,
                sample=samples[row],
                **scored.components,
            )
            rollouts.append(rollout)
        lines = (rollout.line() for rollout in rollouts)
        write_text(Path(rollout_data_dir) / f"{self.global_steps}.jsonl", "".join(lines))
        for name in ("wandb", "trackio"):
            if name in self.logger.logger and self._saves():
                run = RunFolder(Path(rollout_data_dir).parents[1])
                log_rollouts(import_module(name), rollouts, run.data, self.global_steps)

    def _saves(self) -> bool:
        """Whether a step ends with a checkpoint."""
        every = self.config.trainer.save_freq
        return self.global_steps >= self.total_training_steps or (every > 0 and self.global_steps % every == 0)

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
        if self.replay_buffer.filter is not None and state.exists():  # not if filtering was switched on later
            self.replay_buffer.load_state_dict(torch.load(state, weights_only=True))


def whole_groups(groups: Sequence[str], tokens: Sequence[int], ranks: int) -> list[int]:
    """Order of rows in which each rank's share (equal numbers of rows) holds whole groups, and about as many tokens.

    Example:
        >>> whole_groups(["a", "b", "c", "a", "b", "c", "d", "d"], [9, 1, 5, 9, 1, 5, 2, 2], 2)
        [0, 3, 1, 4, 2, 5, 6, 7]
    """
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    room = len(groups) // ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for members in sorted(rows.values(), key=lambda members: -sum(tokens[row] for row in members)):
        while members:  # a group is split where no rank has room for all of it
            free = [rank for rank in range(ranks) if len(shares[rank]) + len(members) <= room]
            free = free or [rank for rank in range(ranks) if len(shares[rank]) < room]
            rank = min(free, key=load.__getitem__)
            placed, members = members[: room - len(shares[rank])], members[room - len(shares[rank]) :]
            shares[rank] += placed
            load[rank] += sum(tokens[row] for row in placed)
    first = {group: number for number, group in enumerate(rows)}
    return [row for share in shares for row in sorted(share, key=lambda row: (first[groups[row]], row))]


def _scored(batch: Any, data: Any, relation_weight: float) -> dict[int, Scored]:
    """Row -> what the reward worker returned, with the relation to the twin's answers; without padding rows."""
    infos, extras = plain(data["extra_info"]), plain(data["extra_fields"])
    rows = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    scored = [
        Scored.of(infos[row]["id"], infos[row]["task"], row_order(batch.keys[row])[0], extras[row]["reward_extra_info"])
        for row in rows
    ]
    if relation_weight:
        counterparts = [_sample(infos[row])["extras"].get("counterpart") for row in rows]
        answers = [Answer(one.group, of, one.chosen) for one, of in zip(scored, counterparts)]
        scored = [one.paid("relation", found, relation_weight) for one, found in zip(scored, relations(answers))]
    return dict(zip(rows, scored))


def contrasted(scored: Sequence[Scored], shuffled: Mapping[str, float], bonus: float, ratio: float) -> list[Scored]:
    """With T-GRPO's temporal reward (`rewards.temporal`); 0 where the question has no contrast.

    Args:
        scored: whole groups.
        shuffled: mean accuracy of the answers about shuffled frames, by the group's name.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(scored):
        rows[one.group].append(row)
    earned = [0.0] * len(scored)
    for group in rows.keys() & shuffled.keys():
        found = temporal([scored[row].components["accuracy"] for row in rows[group]], shuffled[group], ratio)
        for row, value in zip(rows[group], found):
            earned[row] = value
    known = [{"shuffled_accuracy": shuffled[one.group]} if one.group in shuffled else {} for one in scored]
    paid = [one.paid("temporal", value, bonus) for one, value in zip(scored, earned)]
    return [replace(one, components=one.components | fact) for one, fact in zip(paid, known)]


def _sample(info: dict[str, Any]) -> dict[str, Any]:
    """The sample's fields without its chain, which no reward reads."""
    sample: dict[str, Any] = json.loads(info["sample"])
    sample.pop("chain", None)
    return sample

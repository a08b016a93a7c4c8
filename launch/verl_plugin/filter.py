"""Online filtering: zero-advantage groups are dropped, and other prompts drawn in their place.

verl's own filter depends on the order in which rollouts arrive, has no thresholds and refills without end (verl
0.9.1, v1/replay_buffer.py:312). Here the groups of a step are the same in whatever order rollouts finish: a round of
prompts is filtered once all of it has, or each dropped group is replaced by one prompt, the next of the data set.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from launch.verl_plugin.queue import RolloutError, fields_of, plain, row_order
from rewards.errors import UserError

POLL_SECONDS = 0.1  # verl's 2 s are most of a short step
EMPTY_LIMIT = 3  # times `max_rounds` without a single group to train on


class FilterError(UserError):
    """No prompt gives a group to train on; the message says what to do."""


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt.

    Attributes:
        rows: key and tag of each rollout, as verl's queue names them.
        values: of the metric, per rollout.
    """

    rows: dict[str, dict[str, Any]]
    values: list[float]

    @property
    def tokens(self) -> int:
        """Of all responses."""
        return sum(tag["response_len"] for tag in self.rows.values())


@dataclass(frozen=True)
class GroupFilter:
    """Which groups of a round are kept.

    mode "mean" (the published code): those whose mean of the metric lies strictly between `low` and `high`.
    mode "percentile" (CamReasoner, section 4.1, "prunes samples in the top and bottom 1% of the reward distribution"):
    those whose mean lies strictly between the quantiles `low` and `high` of the metric over all rollouts of the round.
    Where the metric is 0 or 1, both drop the groups that are all wrong or all right. Where fewer than 1 % of the
    rollouts are wrong, or right, both quantiles are the same number, and `percentile` drops mixed groups too.
    """

    mode: str
    low: float
    high: float

    def bounds(self, groups: Sequence[Group]) -> tuple[float, float]:
        if self.mode == "mean":
            return self.low, self.high
        low, high = np.quantile([value for group in groups for value in group.values], (self.low, self.high))
        return float(low), float(high)

    def sides(self, groups: Sequence[Group]) -> list[int]:
        """Of each group: -1 at or below the lower bound, 1 at or above the upper one, 0 between them, kept."""
        low, high = (round(bound, 9) for bound in self.bounds(groups))  # a mean of equal values is not quite that value
        means = [round(float(np.mean(group.values)), 9) for group in groups]
        return [1 if mean >= high else -1 if mean <= low else 0 for mean in means]


@dataclass
class KeepRate:
    """Share of the groups that the filter keeps: of this step, and of each earlier one half as much as of the next.

    Example:
        >>> rate = KeepRate(kept=30.0, seen=60.0)
        >>> rate.refill(missing=10, least=1, most=64)
        20
    """

    kept: float = 0.0
    seen: float = 0.0

    def add(self, kept: int, seen: int) -> None:
        """A round's groups."""
        self.kept, self.seen = self.kept + kept, self.seen + seen

    def next_step(self) -> None:
        """What was seen counts half from now on."""
        self.kept, self.seen = self.kept / 2, self.seen / 2

    def refill(self, missing: int, least: int, most: int) -> int:
        """Prompts to draw so that `missing` groups are kept: a multiple of `least`, `most` at most."""
        wanted = ceil(missing * self.seen / self.kept) if self.kept else most
        return min(ceil(wanted / least) * least, most)


class Sampler(ReplayBuffer):
    """verl's synchronous sampler: fails where a rollout failed, and filters groups where the recipe says so.

    `shuffled`: with T-GRPO's contrast, prompt -> mean accuracy of the answers about its shuffled frames.

    With a filter a step draws rounds of as many prompts as it trains on, until it has enough groups, or `max_rounds`
    were drawn and at least one group is there. Groups left over open the next step. With `refill` "missing" the rounds
    after the first have as many prompts as the keep rate asks for to fill the step. With "immediate" there are no
    rounds: one prompt is drawn for each group that is dropped, while the others are still running. Whichever finishes
    first, the step ends with the first prompts of which enough are kept, and none is left over.

    Args:
        sampler_kwargs: {"filter": None} or {"filter": {"mode", "metric", "low", "high", "max_rounds", "pairs",
            "contrast"}}, and "refill" where it is not "batch". With pairs a question and its twin, prompts 2 n and
            2 n + 1, are kept both where one of them is, or none. With contrast the answers about shuffled frames are
            compared with, and not trained on: they count for no prompt.
    """

    def __init__(self, *args: Any, sampler_kwargs: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, sampler_kwargs=sampler_kwargs, poll_interval=POLL_SECONDS, **kwargs)
        settings = sampler_kwargs["filter"]
        self.filter = None
        if settings is not None:
            self.filter = GroupFilter(settings["mode"], settings["low"], settings["high"])
            self.metric, self.max_rounds = settings["metric"], settings["max_rounds"]
            self.pairs: bool = settings["pairs"]
            self.contrast: bool = settings["contrast"]
            self.refill: str = settings.get("refill", "batch")
            self.prompts = 2 if self.contrast else 1  # of a group that fills a place
        self.shuffled: dict[str, float] = {}
        self.carried: list[Group] = []
        self.drawn = 0  # prompts since the training began
        self.keep_rate = KeepRate()

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        if failed := sorted(self.failure_keys["train"]):
            raise RolloutError(f"rollouts of {len(failed)} prompts failed, the first being {failed[0]}: see above")

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, float]]:
        """The groups of a step, and the filter's metrics.

        Raises:
            FilterError: no group is kept in EMPTY_LIMIT * max_rounds rounds, or the metric does not exist.
            RolloutError: a rollout failed.
        """
        if self.filter is None or partition_id != "train":
            return super().sample(global_steps, partition_id, batch_size)
        kept, below, rounds, seen = self.carried, 0, 0.0, 0
        dropped: list[Group] = []
        in_flight = batch_size // self.prompts
        self._forget()
        while True:
            groups = self._finished(partition_id)
            in_flight -= len(groups)
            seen += len(groups)
            sides = self._sides(groups, self.filter)
            self.keep_rate.add(sides.count(0), len(groups))
            for group, side in zip(groups, sides):
                (dropped if side else kept).append(group)
                below += side < 0
            _clear(partition_id, [key for group, side in zip(groups, sides) if side for key in group.rows])
            immediate = self.refill == "immediate"
            rounds = (seen + in_flight) * self.prompts / batch_size if immediate else rounds + 1
            missing = batch_size - len(kept) - in_flight
            if missing <= 0 or (rounds >= self.max_rounds and (kept or in_flight)):
                if in_flight:
                    continue
                break
            if rounds >= EMPTY_LIMIT * self.max_rounds:
                low, high = self.filter.bounds(groups)
                raise FilterError(
                    f"step {global_steps}: none of {len(dropped)} prompts has a mean {self.metric} between {low:g} and "
                    f"{high:g}: rl.filter asks for more than this policy gives; widen it, or start from another epoch"
                )
            number = self._refill(missing, batch_size)
            if immediate and rounds < self.max_rounds:  # as many in all as if they were drawn one by one
                number = min(number, round((self.max_rounds - rounds) * batch_size))
            in_flight += number // self.prompts
            self.refill_fn(number)
        kept.sort(key=lambda group: row_order(next(iter(group.rows))))
        batch, self.carried = kept[:batch_size], kept[batch_size:]
        self.drawn += seen
        self.keep_rate.next_step()
        metrics = {
            "filter/keep_rate": 1 - len(dropped) / seen,
            "filter/rounds": rounds,
            "filter/resampled_prompts": max(seen - batch_size, 0),
            "filter/dropped_below": below,
            "filter/dropped_above": len(dropped) - below,
            "filter/discarded_tokens": sum(group.tokens for group in dropped),
            "filter/carried_over": len(self.carried),
            "filter/missing": batch_size - len(batch),
            "filter/prompts_drawn": self.drawn,
        }
        rows = {key: tag for group in batch for key, tag in group.rows.items()}
        return KVBatchMeta(partition_id=partition_id, keys=list(rows), tags=list(rows.values())), metrics

    def _refill(self, missing: int, batch_size: int) -> int:
        """Prompts to draw next; a question and its twin are drawn together, and a contrast fills no place."""
        if self.refill == "batch":
            return batch_size
        if self.refill == "immediate":
            return missing * self.prompts
        return self.keep_rate.refill(missing * self.prompts, 2 if self.pairs else self.prompts, batch_size)

    def _sides(self, groups: Sequence[Group], chosen: GroupFilter) -> list[int]:
        """`GroupFilter.sides`, of both branches of a pair 0 where it is of one."""
        sides = chosen.sides(groups)
        if not self.pairs:
            return sides
        return [0 if 0 in sides[place // 2 * 2 : place // 2 * 2 + 2] else side for place, side in enumerate(sides)]

    def _finished(self, partition_id: str) -> list[Group]:
        """Groups that have finished, in the order of their prompts: of all in flight, or of any."""
        while True:
            self._sync_metadata_from_transfer_queue()
            running = self.pending_keys[partition_id] | self.running_keys[partition_id]
            prompts = sorted(self.finished_keys[partition_id])
            if self.refill == "immediate":
                unfinished = set(map(self._unit, running))
                prompts = [prompt for prompt in prompts if self._unit(prompt) not in unfinished]
            elif running:
                prompts = []
            if prompts:
                return self._groups(prompts, partition_id)
            time.sleep(self.poll_interval)

    def _groups(self, prompts: list[str], partition_id: str) -> list[Group]:
        rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for key, tag in sorted(self.partitions[partition_id].items(), key=lambda row: row_order(row[0])):
            rows[row_order(key)[0]][key] = tag
        keys = [key for prompt in prompts for key in rows[prompt]]
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])
        components = dict(zip(keys, (extra["reward_extra_info"] for extra in plain(data["extra_fields"]))))
        if self.metric not in components[keys[0]]:
            known = ", ".join(sorted(components[keys[0]]))
            raise FilterError(f"rl.filter.metric={self.metric}: the reward has {known}")
        tq.kv_clear(partition_id=partition_id, keys=prompts)  # filtered once
        if self.contrast:
            prompts = self._ordered(prompts, rows, components, partition_id)
        return [Group(rows[p], [float(components[key][self.metric]) for key in rows[p]]) for p in prompts]

    def _unit(self, prompt: str) -> tuple[str, int]:
        """What is kept or dropped as one: a prompt, or prompts 2 n and 2 n + 1 of a step."""
        step, number = prompt.split(".")
        return step, int(number) // (2 if self.pairs or self.contrast else 1)

    def _ordered(self, prompts: list[str], rows: Any, components: dict[str, Any], partition_id: str) -> list[str]:
        """The prompts of a round without the contrasts, each of which follows its question; notes their accuracy."""
        ordered: list[str] = []
        contrasts: list[str] = []
        for prompt in prompts:
            found = [components[key] for key in rows[prompt]]
            if "shuffled" in found[0]:
                self.shuffled[ordered[-1]] = float(np.mean([one["accuracy"] for one in found]))
                contrasts += rows[prompt]
            else:
                ordered.append(prompt)
        _clear(partition_id, contrasts)
        return ordered

    def _forget(self) -> None:
        """Keep the accuracies of the contrasts to what was carried over."""
        carried = {row_order(next(iter(group.rows)))[0] for group in self.carried}
        self.shuffled = {prompt: share for prompt, share in self.shuffled.items() if prompt in carried}

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Prompts drawn, the keep rate, and verl's rows of the groups carried over; loads with weights_only."""
        rows = [(key, tag) for group in self.carried for key, tag in group.rows.items()]
        return {
            "drawn": self.drawn,
            "shuffled": self.shuffled,
            "keep_rate": [self.keep_rate.kept, self.keep_rate.seen],
            "groups": [{"keys": list(group.rows), "values": group.values} for group in self.carried],
            "rows": [{"key": key, "tag": tag, "fields": fields_of(key)} for key, tag in rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the groups carried over back into verl's queue."""
        self.drawn, self.shuffled = state["drawn"], state.get("shuffled", {})
        self.keep_rate = KeepRate(*state.get("keep_rate", ()))
        tags = {row["key"]: row["tag"] for row in state["rows"]}
        self.carried = [Group({key: tags[key] for key in g["keys"]}, g["values"]) for g in state["groups"]]
        if tags:
            fields = list_of_dict_to_tensordict([row["fields"] for row in state["rows"]])
            tq.kv_batch_put(keys=list(tags), partition_id="train", fields=fields, tags=list(tags.values()))


def _clear(partition_id: str, keys: list[str]) -> None:
    """Take rows out of verl's queue, which refuses an empty list."""
    if keys:
        tq.kv_clear(partition_id=partition_id, keys=keys)

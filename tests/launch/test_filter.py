"""Which groups are kept, how a step is filled, and what is carried over; verl's queue is played by a dictionary."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.utils.dataset.rl_dataset import collate_fn

from launch.checks import check_advantage
from launch.verl_plugin import filter as filter_module
from launch.verl_plugin.filter import FilterError, Group, GroupFilter, KeepRate, Sampler
from launch.verl_plugin.queue import RolloutError, plain
from launch.verl_plugin.trainer import Trainer
from rewards.errors import UserError

N = 4  # rollouts of a prompt


def group(*values: float) -> Group:
    return Group({f"p_{n}_0": {"response_len": 10} for n in range(len(values))}, list(values))


def test_mean_keeps_what_lies_strictly_between():
    groups = [group(0, 0, 0, 0), group(0, 0, 0, 1), group(1, 1, 1, 1), group(0.5, 0.5)]
    assert GroupFilter("mean", 0.01, 0.99).sides(groups) == [-1, 0, 1, 0]
    assert GroupFilter("mean", 0.25, 0.5).sides(groups) == [-1, -1, 1, 1]


def test_percentile_cuts_the_rewards_of_the_round():
    # 40 rollouts: 10 of 0.1, 20 mixed, 10 of 1.0. The 1st percentile is 0.1, the 99th 1.0.
    groups = [group(*[0.1] * 10), group(*[0.1, 1.0] * 5), group(*[0.4] * 10), group(*[1.0] * 10)]
    assert GroupFilter("percentile", 0.01, 0.99).sides(groups) == [-1, 0, 0, 1]
    # The 10th and 90th percentiles of 0, 1, ... 10 are 1 and 9.
    groups = [group(number) for number in range(11)]
    assert GroupFilter("percentile", 0.1, 0.9).sides(groups) == [-1, -1, *[0] * 7, 1, 1]


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=8, max_size=8), min_size=13, max_size=40))
def test_the_paper_and_the_code_drop_the_same_groups_of_eight(values):
    """For 0/1 rewards of which neither is rarer than 1 %."""
    share = np.mean(values)
    groups = [group(*row) for row in values]
    by_mean = [side == 0 for side in GroupFilter("mean", 0.01, 0.99).sides(groups)]
    assert by_mean == [len(set(row)) == 2 for row in values]
    if 0.02 < share < 0.98:
        assert by_mean == [side == 0 for side in GroupFilter("percentile", 0.01, 0.99).sides(groups)]


def test_percentiles_drop_mixed_groups_where_one_answer_is_rarer_than_a_percent():
    groups = [group(0, 1, 1, 1, 1, 1, 1, 1)] * 4 + [group(*[1] * 8)] * 124  # 4 of 1,024 are wrong
    assert GroupFilter("mean", 0.01, 0.99).sides(groups).count(0) == 4
    assert GroupFilter("percentile", 0.01, 0.99).sides(groups).count(0) == 0


@given(st.floats(-10, 10), st.integers(1, 9))
def test_a_round_without_spread_keeps_nothing(value, size):
    assert 0 not in GroupFilter("percentile", 0.01, 0.99).sides([group(*[value] * size)] * 3)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["rl.filter.low=0.99"], "filter bounds"),
        (["rl.filter.mode=percentile", "rl.filter.high=2"], "filter bounds"),
        (["rl.filter.mode=median"], "rl.filter.mode"),
        (["rl.filter.mode=percentile", "rl.filter.refill=immediate"], "percentiles are those of a whole round"),
        (["rl.filter.enabled=true", "rl.filter.metric=iou"], "rl.filter.metric=iou: the reward camreasoner has score"),
        (["advantage=pa_grpo"], "pa_grpo needs rewards per segment"),
        (["reward=videop2r", "+reward.length_window=3"], "reward.length_window: unknown setting"),
        (["judge.name=oracle"], "judge 'oracle'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(tiny_recipe, overrides, named):
    with pytest.raises((UserError, HydraException), match=named):
        check_advantage(tiny_recipe(*overrides))


class Queue:
    """What the sampler uses of TransferQueue, in a dictionary."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, dict]] = defaultdict(dict)
        self.fields: dict[str, dict] = {}

    def kv_list(self, *_):
        return {partition: {key: dict(tag) for key, tag in tags.items()} for partition, tags in self.tags.items()}

    def kv_clear(self, keys, partition_id):
        if not keys:
            raise ValueError("Received an empty list as keys.")
        for key in keys:
            del self.tags[partition_id][key]
            self.fields.pop(key, None)

    def kv_batch_get(self, keys, partition_id, select_fields=None):
        return {name: [self.fields[key][name] for key in keys] for name in select_fields or ()}


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr(filter_module, "tq", queue)
    monkeypatch.setattr("verl.trainer.ppo.v1.replay_buffer.tq", queue)
    return queue


class Prompts:
    """A data set without end: prompt n is answered right by `right[n]` of its N rollouts."""

    def __init__(self, queue, right, batch: int) -> None:
        self.queue, self.right, self.batch, self.step, self.drawn = queue, right, batch, 1, 0

    def draw(self, count: int) -> None:
        assert count > 0
        order = np.random.default_rng(self.drawn).permutation(count)  # they finish in any order
        for place in order:
            number = self.drawn + int(place)
            right = self.right[number % len(self.right)]
            name = f"step{self.step:06d}.{number:05d}"
            self.queue.tags["train"][name] = {"is_prompt": True, "status": "finished", "global_steps": self.step}
            for rollout in range(N):
                key = f"{name}_{rollout}_0"
                self.queue.tags["train"][key] = {"response_len": 10}
                self.queue.fields[key] = {"extra_fields": {"reward_extra_info": {"accuracy": float(rollout < right)}}}
        self.drawn += count

    def sampler(self, **changes) -> Sampler:
        settings = {"mode": "mean", "metric": "accuracy", "low": 0.01, "high": 0.99, "max_rounds": 3}
        settings |= {"pairs": False, "contrast": False}
        settings |= changes
        return Sampler("sync", {}, None, "drop", sampler_kwargs={"filter": settings}, refill_fn=self.draw)

    def step_of(self, sampler: Sampler) -> tuple[list[str], dict[str, float]]:
        """Prompts that the next step trains on, and the meters."""
        self.draw(self.batch)
        batch, metrics = sampler.sample(self.step, "train", self.batch)
        prompts = [key.split("_")[0] for key in batch.keys[::N]]
        assert batch.keys == [f"{prompt}_{rollout}_0" for prompt in prompts for rollout in range(N)]
        self.queue.kv_clear(batch.keys, "train")  # as the trainer does after the step
        self.step += 1
        return prompts, metrics


def test_a_step_refills_and_carries_over_what_is_left(queue):
    prompts = Prompts(queue, [0, 2, 2, 4, 2], batch=4)  # of prompts 0..4: dropped, kept, kept, dropped, kept
    sampler = prompts.sampler()
    one, metrics = prompts.step_of(sampler)
    assert one == ["step000001.00001", "step000001.00002", "step000001.00004", "step000001.00006"]
    assert metrics == {
        "filter/keep_rate": 5 / 8,
        "filter/rounds": 2,
        "filter/resampled_prompts": 4,
        "filter/dropped_below": 2,
        "filter/dropped_above": 1,
        "filter/discarded_tokens": 3 * N * 10,
        "filter/carried_over": 1,
        "filter/missing": 0,
        "filter/prompts_drawn": 8,
    }
    two, metrics = prompts.step_of(sampler)
    assert two[0] == "step000001.00007" and set(two[1:]) == {f"step000002.{n:05d}" for n in (9, 11, 12)}
    assert metrics["filter/prompts_drawn"] == 16
    assert len(queue.fields) == N * metrics["filter/carried_over"]  # nothing dropped stays in the queue


@settings(max_examples=30, deadline=None)
@given(
    right=st.lists(st.integers(0, N), min_size=1, max_size=30),
    batch=st.integers(1, 6),
    refill=st.sampled_from(["batch", "missing"]),
)
def test_every_prompt_is_trained_on_once_or_dropped(right, batch, refill):
    queue = Queue()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_module, "tq", queue)
        patch.setattr("verl.trainer.ppo.v1.replay_buffer.tq", queue)
        prompts, trained, dropped = Prompts(queue, right, batch), [], 0
        sampler = prompts.sampler(refill=refill)
        for _ in range(4):
            try:
                names, metrics = prompts.step_of(sampler)
            except FilterError:
                assert not any(0 < count < N for count in right) or len(right) > 9 * batch
                return
            trained += names
            dropped += metrics["filter/dropped_below"] + metrics["filter/dropped_above"]
            assert 1 <= len(names) == batch - metrics["filter/missing"]
        assert len(set(trained)) == len(trained)
        assert len(trained) + dropped + len(sampler.carried) == prompts.drawn
        assert all(0 < right[int(name.split(".")[1]) % len(right)] < N for name in trained)


def counted(prompts: Prompts) -> list[int]:
    """The size of each draw, from now on."""
    draw, sizes = prompts.draw, []

    def counting(count: int) -> None:
        sizes.append(count)
        draw(count)

    prompts.draw = counting
    return sizes


def odd_ones_are_contrasts(prompts: Prompts) -> None:
    """Each is about the shuffled frames of the prompt before it, from now on."""
    draw = prompts.draw

    def marked(count: int) -> None:
        draw(count)
        for key, fields in prompts.queue.fields.items():
            if int(key.split("_")[0].split(".")[1]) % 2:
                fields["extra_fields"]["reward_extra_info"]["shuffled"] = 1.0

    prompts.draw = marked


def test_a_refill_draws_what_is_missing_at_the_keep_rate(queue):
    prompts = Prompts(queue, [0, 2, 2, 4, 2, 2], batch=12)  # two of three are kept
    sizes = counted(prompts)
    sampler = prompts.sampler(refill="missing", max_rounds=9)
    for _ in range(3):
        names, metrics = prompts.step_of(sampler)
        assert len(names) == 12 and metrics["filter/carried_over"] == 0
    assert sizes == [12, 6] * 3  # 8 of 12 kept, 4 missing


def test_earlier_steps_count_for_the_keep_rate_half_as_much_each():
    rate = KeepRate()
    assert rate.refill(5, 1, 64) == 64  # nothing is known
    rate.add(8, 16)
    rate.next_step()
    rate.add(6, 8)
    assert (rate.kept, rate.seen) == (10.0, 16.0)
    assert [rate.refill(missing, 1, 64) for missing in (1, 5, 60)] == [2, 8, 64]
    assert [rate.refill(3, least, 64) for least in (1, 2, 4)] == [5, 6, 8]


class RunningPrompts(Prompts):
    """Prompts of which, at each look, some others have finished."""

    def __init__(self, *args, order: int, **settings) -> None:
        super().__init__(*args, **settings)
        self.random = np.random.default_rng(order)

    def draw(self, count: int) -> None:
        known = set(self.tags)
        super().draw(count)
        for name in self.tags.keys() - known:
            self.tags[name].update({"status": "running"} if self.tags[name].get("is_prompt") else {})

    @property
    def tags(self):
        return self.queue.tags["train"]

    def finish_some(self, _seconds: float = 0) -> None:
        running = [name for name, tag in self.tags.items() if tag.get("status") == "running"]
        for name in self.random.permutation(running)[: self.random.integers(1, 4)]:
            self.tags[name]["status"] = "finished"


@settings(max_examples=60, deadline=None)
@given(
    right=st.lists(st.integers(0, N), min_size=1, max_size=30),
    batch=st.integers(1, 4),
    pairs=st.booleans(),
    rounds=st.integers(1, 4),
)
def test_dropped_groups_are_replaced_at_once_by_the_same_prompts_in_any_order(right, batch, pairs, rounds):
    def steps(order: int) -> list:
        queue = Queue()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filter_module, "tq", queue)
            patch.setattr("verl.trainer.ppo.v1.replay_buffer.tq", queue)
            prompts = RunningPrompts(queue, right, batch * (1 + pairs), order=order)
            patch.setattr(filter_module.time, "sleep", prompts.finish_some)
            sampler = prompts.sampler(refill="immediate", pairs=pairs, max_rounds=rounds)
            found = []
            for _ in range(3):
                try:
                    found.append(prompts.step_of(sampler))
                except FilterError as error:
                    return [*found, str(error)]
                names, metrics = found[-1]
                assert not queue.fields and not queue.tags["train"] and not sampler.carried
                assert metrics["filter/prompts_drawn"] == prompts.drawn
                assert len(names) == prompts.batch or metrics["filter/rounds"] >= rounds
                last = max(int(name.split(".")[1]) for name in names)
                assert len(names) < prompts.batch or last // (1 + pairs) == (prompts.drawn - 1) // (1 + pairs)
            return found

    assert steps(0) == steps(1) == steps(2)


def test_a_group_is_replaced_while_others_are_running(queue, monkeypatch):
    prompts = RunningPrompts(queue, [0, 2, 2, 2], batch=3, order=0)
    sizes = counted(prompts)

    def finish_next(_seconds):
        first = min(name for name, tag in prompts.tags.items() if tag.get("status") == "running")
        prompts.tags[first]["status"] = "finished"
        looks.append(sum(tag.get("status") == "running" for tag in prompts.tags.values()))

    looks: list[int] = []
    monkeypatch.setattr(filter_module.time, "sleep", finish_next)
    names, metrics = prompts.step_of(prompts.sampler(refill="immediate"))
    assert names == [f"step000001.{number:05d}" for number in (1, 2, 3)]
    assert sizes == [3, 1] and looks == [2, 2, 1, 0]  # the fourth was drawn while two others were running
    assert metrics["filter/rounds"] == 4 / 3 and metrics["filter/keep_rate"] == 3 / 4


def test_a_contrast_is_drawn_with_the_question_that_takes_a_place(queue, monkeypatch):
    prompts = RunningPrompts(queue, [2, 1, 0, 4, 3, 3, 1, 0], batch=4, order=0)
    odd_ones_are_contrasts(prompts)
    monkeypatch.setattr(filter_module.time, "sleep", prompts.finish_some)
    names, _ = prompts.step_of(prompts.sampler(contrast=True, refill="immediate"))
    assert names == [f"step000001.{number:05d}" for number in (0, 4, 6, 8)] and prompts.drawn == 10


def test_a_refill_has_whole_pairs(queue):
    prompts = Prompts(queue, [0, 2, 4, 4, 1, 4, 0, 4], batch=6)  # pairs: one kept, none, one kept, none
    sizes = counted(prompts)
    prompts.step_of(prompts.sampler(pairs=True, refill="missing"))
    assert sizes[:2] == [6, 4]  # 4 of 6 kept: three prompts for the two that are missing


def test_a_step_that_drops_nothing_clears_nothing(queue):
    prompts = Prompts(queue, [2], batch=2)
    assert prompts.step_of(prompts.sampler())[1]["filter/keep_rate"] == 1.0


def test_both_branches_of_a_pair_are_kept_or_dropped(queue):
    prompts = Prompts(queue, [0, 2, 4, 4, 1, 4, 0, 4], batch=4)  # pairs: one kept, none, one kept, none
    sampler = prompts.sampler(pairs=True)
    one, metrics = prompts.step_of(sampler)
    assert one == [f"step000001.{number:05d}" for number in (0, 1, 4, 5)]
    assert (metrics["filter/dropped_below"], metrics["filter/dropped_above"]) == (1, 3)
    assert metrics["filter/carried_over"] == 0


def test_answers_about_shuffled_frames_are_compared_with_and_not_trained_on(queue, monkeypatch, tmp_path):
    """Each odd prompt is the contrast of the one before it: a step is filled with questions alone."""
    prompts = Prompts(queue, [2, 1, 0, 4, 3, 3, 1, 0], batch=4)
    odd_ones_are_contrasts(prompts)
    sampler = prompts.sampler(contrast=True, low=-1.0, high=2.0)
    one, metrics = prompts.step_of(sampler)
    assert one == [f"step000001.{number:05d}" for number in (0, 2, 4, 6)]
    assert sampler.shuffled == dict(zip(one, (0.25, 1.0, 0.75, 0.0)))
    assert (metrics["filter/rounds"], metrics["filter/keep_rate"], metrics["filter/resampled_prompts"]) == (2, 1.0, 0)
    assert not queue.fields and not queue.tags["train"]
    filtering = prompts.sampler(contrast=True)  # nobody got questions 10 and 18 right
    two, _ = prompts.step_of(filtering)
    assert two == [f"step000002.{number:05d}" for number in (8, 12, 14, 16)] and len(filtering.carried) == 0
    three, _ = prompts.step_of(filtering)
    assert set(three) <= filtering.shuffled.keys()
    monkeypatch.setattr(filter_module, "fields_of", lambda key: {"ids": torch.arange(3), **queue.fields[key]})
    torch.save(filtering.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["shuffled"] == filtering.shuffled


def test_the_cap_ends_a_step_early_and_an_empty_one_is_an_error(queue):
    prompts = Prompts(queue, [2] + [0] * 99, batch=2)
    names, metrics = prompts.step_of(prompts.sampler())
    assert len(names) == 1 and metrics["filter/missing"] == 1 and metrics["filter/rounds"] == 3

    prompts = Prompts(queue, [4], batch=2)
    with pytest.raises(FilterError, match="none of 18 prompts has a mean accuracy between 0.01 and 0.99"):
        prompts.step_of(prompts.sampler())  # 3 times max_rounds of 2 prompts


def test_an_unknown_metric_and_a_failed_rollout_are_named(queue):
    prompts = Prompts(queue, [2], batch=2)
    with pytest.raises(FilterError, match="metric=iou: the reward has accuracy"):
        prompts.step_of(prompts.sampler(metric="iou"))
    queue.tags["train"].clear()
    prompts.draw(2)
    queue.tags["train"]["step000001.00002"]["status"] = "failure"
    with pytest.raises(RolloutError, match="step000001.00002"):
        prompts.sampler().sample(1, "train", 2)
    unfiltered = Sampler("sync", {}, None, "drop", sampler_kwargs={"filter": None}, refill_fn=prompts.draw)
    with pytest.raises(RolloutError, match="step000001.00002"):
        unfiltered.sample(1, "train", 2)


@pytest.mark.parametrize("refill", ["batch", "missing"])
def test_a_saved_sampler_goes_on_the_same(queue, monkeypatch, tmp_path, refill):
    prompts = Prompts(queue, [0, 2, 2, 4, 2, 1, 2], batch=4)
    sampler = prompts.sampler(refill=refill)
    prompts.step_of(sampler)
    assert sampler.carried
    monkeypatch.setattr(filter_module, "fields_of", lambda key: {"ids": torch.arange(3), **queue.fields[key]})
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = [prompts.step_of(sampler) for _ in range(2)]

    queue.tags.clear(), queue.fields.clear()

    def put(keys, partition_id, fields, tags):
        queue.tags[partition_id].update(zip(keys, tags))
        queue.fields.update(zip(keys, fields))

    monkeypatch.setattr(queue, "kv_batch_put", put, raising=False)
    monkeypatch.setattr(filter_module, "list_of_dict_to_tensordict", list)
    resumed = prompts.sampler(refill=refill)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    prompts.step, prompts.drawn = 2, resumed.drawn
    assert [prompts.step_of(resumed) for _ in range(2)] == expected


def test_prompts_drawn_one_by_one_are_those_of_a_whole_batch_and_named_alike():
    def drawn(at_once: int, counts: list[int | None]) -> list[tuple]:
        rows = [
            {
                "raw_prompt": [{"role": "user", "content": f"{n}?"}],
                "extra_info": {"id": n},
                "index": n,
                "dummy": torch.tensor([n]),
            }
            for n in range(12)
        ]
        trainer = object.__new__(Trainer)
        trainer.config = OmegaConf.create({"data": {"train_batch_size": 4, "gen_batch_size": at_once}})
        trainer.global_steps, trainer._fetched = 3, 0
        trainer.train_dataloader_it = iter(
            [collate_fn(rows[start : start + at_once]) for start in range(0, len(rows), at_once)]
        )
        found = []
        for count in counts:
            batch = trainer._next_train_batch(count)
            assert all(type(name) is str for name in list(batch["uid"]))  # as verl hands them to its queue
            columns = [plain(batch[name]) for name in ("uid", "raw_prompt", "extra_info", "index")]
            found += zip(*columns, batch["dummy"].tolist())
        return found

    whole = drawn(4, [None, 4])
    assert [name for name, *_ in whole] == [f"step000003.{number:05d}" for number in range(8)]
    assert str(drawn(1, [None, 1, 3])) == str(drawn(2, [None, 4])) == str(whole)

"""What the trainer adds to verl: the recipe's rewards on sampled tokens, advantages per segment, metrics."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from data_tools.rendered.questions import demo_texts
from data_tools.rendered.tiny_model import build_tokenizer
from launch.verl_plugin import trainer
from launch.verl_plugin.metrics import Scored, step_metrics
from launch.verl_plugin.reward import RewardManager, slug
from launch.verl_plugin.trainer import estimate
from rewards.advantages import Batch
from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.pa_grpo import PaGrpo
from rewards.segments import byte_level_offsets

SEEN = "The picture slides right, near and far alike."
GOOD = f"<observation>{SEEN}</observation><think>Asked pan left, seen pan left: Yes.</think><answer>Yes</answer>"
WRONG = f"<observation>{SEEN}</observation><think>Asked pan left, seen pan left: Yes.</think><answer>No</answer>"
MALFORMED = "<observation>The picture</observation><think>x</think>"
SAMPLE = {
    "id": "one",
    "task": "binary",
    "answer": "B",
    "options": ["No", "Yes"],
    "extras": {"asked": "pan_left", "motion": "pan_left"},
}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(demo_texts())


def manager(tokenizer, overlong=None, **reward) -> RewardManager:
    ours = {"reward": reward, "judge": {"name": "rules"}, "judge_consistency": False, "overlong": overlong}
    return RewardManager(OmegaConf.create({"algorithm": {"camreasoner": ours}}), tokenizer)


def score(manager: RewardManager, response: str, sample=SAMPLE) -> dict:
    ids = manager.tokenizer.encode(response) + [manager.tokenizer.eos_token_id]
    return asyncio.run(manager.score(ids, sample))


def test_camreasoner_with_its_metrics(tokenizer):
    rewards = manager(tokenizer, name="camreasoner", format_weight=0.1)
    assert score(rewards, GOOD) == pytest.approx({"score": 1.0, "accuracy": 1.0, "format": 1.0, "mismatch": 0.0})
    assert score(rewards, WRONG) == pytest.approx({"score": 0.1, "accuracy": 0.0, "format": 1.0, "mismatch": 1.0})
    assert score(rewards, MALFORMED) == {"score": 0, "accuracy": 0, "format": 0, "malformed": "missing_answer"}


def test_a_long_response_costs_what_the_loss_says(tokenizer):
    tokens = len(tokenizer.encode(GOOD)) + 1
    takes = {"limit": tokens + 5, "buffer": 10, "penalty": 1.0}
    got = score(manager(tokenizer, takes, name="camreasoner"), GOOD)
    assert (got["score"], got["accuracy"], got["overlong"]) == pytest.approx((0.5, 1.0, -0.5))


def test_videop2r_counts_the_sampled_tokens_and_asks_the_judge(tokenizer):
    bounds = {"perception_length": [12, 40], "reasoning_length": [1, 2]}
    got = score(manager(tokenizer, name="videop2r", **bounds), GOOD)
    ids = tokenizer.encode(GOOD)
    assert got["perception_tokens"] + got["reasoning_tokens"] == len(ids) + 1
    assert (got["perception_accuracy"], got["perception_length"], got["reasoning_length"]) == (1.0, 0.2, 0.0)
    assert (got["perception"], got["reasoning"], got["judge/verdicts"]) == pytest.approx((2.2, 2.0, 1.0))


def test_videochat_r1_has_its_own_schema(tokenizer):
    rewards = manager(tokenizer, name="videochat_r1", prompt="thinking")
    thinking = "<think>By second: 0 still.</think><answer>1 to 3</answer>"
    sample = {"id": "when", "task": "temporal_grounding", "spans": [[1.0, 4.0]], "options": [], "answer": ""}
    assert score(rewards, thinking, sample)["score"] == pytest.approx(1 + 2 / 3)
    assert score(rewards, GOOD, sample)["malformed"] == "unexpected_observation"


def test_verl_s_interface_scores_the_response_without_its_padding(tokenizer):
    from verl import DataProto

    ids = torch.tensor(tokenizer.encode(GOOD))
    responses, prompt = torch.cat([ids, torch.zeros(5, dtype=ids.dtype)]), torch.ones(7, dtype=ids.dtype)
    attention = torch.cat([prompt, torch.ones_like(ids), torch.zeros(5, dtype=ids.dtype)])
    data = DataProto.from_dict(
        {"prompts": prompt[None], "responses": responses[None], "attention_mask": attention[None]},
        non_tensors={"extra_info": np.array([{"sample": json.dumps(SAMPLE)}], dtype=object)},
    )
    got = asyncio.run(manager(tokenizer, name="camreasoner").run_single(data))
    assert got["reward_score"] == got["reward_extra_info"]["score"] == pytest.approx(1.0)


def test_reasons_become_names_of_metrics():
    assert slug("missing <think>") == "missing_think"
    assert slug("text outside the tags") == "text_outside_the_tags"


def scored(group: str, score: float, task: str = "binary", **found) -> Scored:
    return Scored.of(group, task, group, {"score": score, **found})


def test_each_segment_learns_on_its_own_tokens(tokenizer):
    rewards = manager(tokenizer, name="videop2r", perception_length=[12, 40], reasoning_length=[16, 48])
    responses = [GOOD, GOOD, WRONG, MALFORMED]
    ids = [tokenizer.encode(response) for response in responses]
    rows = [scored("a", **asyncio.run(rewards.score(row, SAMPLE))) for row in ids]
    width, closing = max(map(len, ids)), "</observation>"
    components = [row.components for row in rows]
    advantages = PaGrpo().advantages(Batch.of(components, ["a"] * 4, ["binary"] * 4))
    expected, mask = torch.zeros(4, width), torch.zeros(4, width)
    for row, response in enumerate(responses):
        _, starts_T = byte_level_offsets(tokenizer)(ids[row])
        middle = response.index(closing) + len(closing) if row < 3 else 0  # the last one is malformed
        chosen = zip(starts_T < middle, [advantages.perception_B[row]] * width, [advantages.response_B[row]] * width)
        expected[row, : len(ids[row])] = torch.tensor([seen if first else said for first, seen, said in chosen])
        mask[row, : len(ids[row])] = 1
    got = estimate(PaGrpo(), rows, torch.zeros(4, width), mask.sum(1)).tokens(mask)
    torch.testing.assert_close(got, expected)
    assert got[2][0] > 0 > got[2][len(ids[2]) - 1]  # what it saw was right, what it concluded was not


def test_one_advantage_for_all_tokens_of_a_response():
    rows = [("a", 1.0, "binary"), ("a", 0.0, "binary"), ("b", 1.0, "choice"), ("b", 0.0, "choice")]
    rewards_BT = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    three_B = torch.tensor([3] * 4)
    got = estimate(EmaGrpo(), [scored(*row) for row in rows], rewards_BT, three_B).tokens(torch.ones(4, 3))
    batch = Batch(rewards_BT.sum(1), ["a", "a", "b", "b"], ["binary", "binary", "choice", "choice"])
    assert torch.equal(got, EmaGrpo().advantages(batch).response_B.unsqueeze(1).repeat(1, 3))
    # A response without a verdict does not affect others.
    unjudged = [scored(*row, unjudged=float(index == 1)) for index, row in enumerate(rows)]
    found = estimate(EmaGrpo(), unjudged, rewards_BT, three_B)
    assert found.tokens(torch.ones(4, 3))[:2].abs().sum() == 0


def test_fidelity_is_metered_where_the_motion_is_known(tokenizer):
    rewards = manager(tokenizer, name="camreasoner", fidelity_weight=0.5)
    unknown = SAMPLE | {"extras": {}}
    found = [score(rewards, GOOD), score(rewards, MALFORMED), score(rewards, GOOD, unknown)]
    metrics = step_metrics([Scored.of("one", "binary", "a", row) for row in found], truncated=0)
    assert metrics["reward/fidelity"] == metrics["reward/fidelity/binary"] == 0.5  # of two
    assert metrics["reward/motion_known"] == pytest.approx(2 / 3)
    alone = step_metrics([Scored.of("one", "binary", "a", found[2])], truncated=0)
    assert "reward/fidelity" not in alone and alone["reward/motion_known"] == 0.0


def test_metrics():
    rows = [
        scored("a", 1.0, accuracy=1.0, perception=1.0, reasoning=0.0, mismatch=0.0),
        scored("a", 1.0, accuracy=1.0, perception=0.0, reasoning=1.0, mismatch=1.0, **{"judge/requests": 3.0}),
        scored("b", 1.0, "choice", accuracy=1.0, perception=1.0, reasoning=1.0),
        scored("b", 0.0, "choice", accuracy=0.0, perception=1.0, reasoning=0.0, malformed="missing_think"),
    ]
    assert step_metrics(rows, truncated=1) == {
        "reward/accuracy": 0.75,
        "reward/accuracy/binary": 1.0,
        "reward/accuracy/choice": 0.5,
        "reward/overall": 0.75,
        "reward/overall/binary": 1.0,
        "reward/overall/choice": 0.5,
        "reward/perception": 0.75,
        "reward/perception/binary": 0.5,
        "reward/perception/choice": 1.0,
        "reward/reasoning": 0.5,
        "reward/reasoning/binary": 0.5,
        "reward/reasoning/choice": 0.5,
        "groups/collapsed": 0.5,
        "groups/collapsed/binary": 1.0,
        "groups/collapsed/choice": 0.0,
        "groups/effective": 1.0,
        "response/truncated": 0.25,
        "response/malformed": 0.25,
        "response/malformed/missing_think": 0.25,
        "response/mismatch": 0.5,
        "response/mismatch_compared": 2.0,
        "judge/requests": 3.0,
    }


# ---------------------------------------------------------------- twins


def test_right_answers_about_frames_in_order_earn_the_temporal_reward(tokenizer):
    rewards = manager(tokenizer, name="camreasoner", format_weight=0.1)
    contrast = SAMPLE | {"extras": SAMPLE["extras"] | {"turn": "shuffled"}}
    assert score(rewards, GOOD, contrast)["shuffled"] == 1.0 and "shuffled" not in score(rewards, GOOD)
    rows = [scored(group, value, accuracy=value) for group in ("a", "b", "c") for value in (1.0, 0.0)]
    found = trainer.contrasted(rows, {"a": 0.5, "b": 0.75}, bonus=0.3, ratio=0.8)  # 0.5 >= 0.4, 0.5 < 0.6, no contrast
    assert [row.components["score"] for row in found] == pytest.approx([1.3, 0.0, 1.0, 0.0, 1.0, 0.0])
    assert [row.bonus for row in found] == pytest.approx([0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    metrics = step_metrics(found, truncated=0)
    assert metrics["reward/temporal"] == pytest.approx(1 / 6) and metrics["reward/shuffled_accuracy"] == 0.625


def test_the_relation_to_the_twin_is_a_component_and_reaches_the_advantage(tokenizer):
    rewards = manager(tokenizer, name="camreasoner", format_weight=0.1)
    twin = SAMPLE | {"id": "one~mirrored", "answer": "A"}
    branches = [branch | {"extras": branch["extras"] | {"counterpart": [1, 0]}} for branch in (SAMPLE, twin)]
    assert score(rewards, GOOD, branches[0])["chosen"] == 1 and "chosen" not in score(rewards, MALFORMED, branches[0])
    said = [(0, GOOD), (0, MALFORMED), (1, GOOD), (1, WRONG), (1, WRONG)]
    rows = [(branches[branch], text, f"step000001.{branch:05d}_{n}_0") for n, (branch, text) in enumerate(said)]
    infos = [{"id": s["id"], "task": s["task"], "sample": json.dumps(s)} for s, _, _ in rows]
    extras = [{"reward_extra_info": score(rewards, text, s)} for s, text, _ in rows]
    batch = SimpleNamespace(keys=[key for *_, key in rows], tags=[{}, {}, {}, {}, {"is_padding": True}])
    data = {"extra_info": infos, "extra_fields": extras}
    assert all("relation" not in row.components for row in trainer._scored(batch, data, 0.0).values())
    found = trainer._scored(batch, data, 0.5)
    assert list(found) == [0, 1, 2, 3]  # the padding row counts for nothing
    assert [row.components["relation"] for row in found.values()] == [0.5, 0.0, 0.0, 0.5]
    assert [row.components["score"] for row in found.values()] == pytest.approx([1.25, 0.0, 0.1, 1.25])
    estimator = SimpleNamespace(
        advantages=lambda batch: SimpleNamespace(weighted=lambda _: scores(batch), tokens=lambda _: scores(batch))
    )

    def scores(given):
        return given.scores_B[:, None].expand(-1, 3)

    real = torch.tensor([True, True, True, True, False])
    token = trainer._current.set(trainer._Batch(estimator, list(found.values()), real))
    paid = torch.zeros(5, 3)
    paid[:, 2] = torch.tensor([1.0, 0.0, 0.1, 1.0, 9.0])  # what the reward worker gave
    weighted, _ = trainer._advantages(paid, torch.ones(5, 3))
    trainer._current.reset(token)
    assert weighted[:, 0].tolist() == pytest.approx([1.25, 0.0, 0.1, 1.25, 0.0])
    assert paid[:, 0].tolist() == [0.0] * 5

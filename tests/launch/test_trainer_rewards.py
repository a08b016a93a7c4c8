"""What the trainer adds to verl: rewards by the recipe on sampled tokens, advantages by process, meters."""

import asyncio
import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from data_tools.questions import demo_texts
from data_tools.tiny_model import build_tokenizer
from launch.verl_plugin.meters import step_meters
from launch.verl_plugin.reward import RewardManager, slug
from launch.verl_plugin.trainer import estimate
from rewards.advantages import EmaGrpo, PaGrpo
from rewards.segments import byte_level_offsets, process_spans, segment_masks

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


def manager(tokenizer, **reward) -> RewardManager:
    ours = {"reward": reward, "judge": {"name": "rules"}, "judge_consistency": False}
    return RewardManager(OmegaConf.create({"algorithm": {"camreasoner": ours}}), tokenizer)


def score(manager: RewardManager, response: str, sample=SAMPLE) -> dict:
    ids = manager.tokenizer.encode(response) + [manager.tokenizer.eos_token_id]
    return asyncio.run(manager.score(ids, sample))


def test_camreasoner_with_what_is_metered(tokenizer):
    rewards = manager(tokenizer, name="camreasoner", format_weight=0.1)
    assert score(rewards, GOOD) == pytest.approx({"score": 1.0, "accuracy": 1.0, "format": 1.0, "mismatch": 0.0})
    assert score(rewards, WRONG) == pytest.approx({"score": 0.1, "accuracy": 0.0, "format": 1.0, "mismatch": 1.0})
    assert score(rewards, MALFORMED) == {"score": 0, "accuracy": 0, "format": 0, "malformed": "missing_answer"}


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


def record(group: str, score: float, task: str = "binary", **more) -> dict:
    return {"id": group, "task": task, "group": group, "score": score, **more}


def test_each_process_learns_on_its_own_tokens(tokenizer):
    rewards = manager(tokenizer, name="videop2r", perception_length=[12, 40], reasoning_length=[16, 48])
    responses = [GOOD, GOOD, WRONG, MALFORMED]
    ids = [tokenizer.encode(response) for response in responses]
    scored = [asyncio.run(rewards.score(row, SAMPLE)) for row in ids]
    records = [record("a", 0.0) | components for components in scored]
    width = max(map(len, ids))
    masks = {process: torch.zeros(4, width, dtype=torch.bool) for process in ("perception", "reasoning")}
    for place, (row, response) in enumerate(zip(ids, responses)):
        for process, mask_T in segment_masks(row, process_spans(response), byte_level_offsets(tokenizer)).items():
            masks[process][place, : len(row)] = torch.tensor(mask_T)
    columns = [torch.tensor([components[name] for components in scored]) for name in ("perception", "reasoning")]
    expected = PaGrpo().token_advantages(*columns, ["a"] * 4, masks["perception"], masks["reasoning"])
    got = estimate(PaGrpo(), records, torch.zeros(4, width)) * (masks["perception"] | masks["reasoning"])
    torch.testing.assert_close(got, expected)
    assert got[2][0] > 0 > got[2][len(ids[2]) - 1]  # what it saw was right, what it concluded was not


def test_one_advantage_for_all_tokens_of_a_response():
    records = [record("a", 1.0), record("a", 0.0), record("b", 1.0, "choice"), record("b", 0.0, "choice")]
    rewards_BT = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    got = estimate(EmaGrpo(), records, rewards_BT)
    one = EmaGrpo().advantages(rewards_BT.sum(1), ["a", "a", "b", "b"], ["binary", "binary", "choice", "choice"])
    assert torch.equal(got, one.unsqueeze(1).repeat(1, 3))
    # A response without a verdict moves nobody.
    records = [row | {"unjudged": float(place == 1)} for place, row in enumerate(records)]
    assert estimate(EmaGrpo(), records, rewards_BT)[:2].abs().sum() == 0


def test_meters():
    records = [
        record("a", 1.0, accuracy=1.0, perception=1.0, reasoning=0.0, mismatch=0.0),
        record("a", 1.0, accuracy=1.0, perception=0.0, reasoning=1.0, mismatch=1.0, **{"judge/requests": 3.0}),
        record("b", 1.0, "choice", accuracy=1.0, perception=1.0, reasoning=1.0),
        record("b", 0.0, "choice", accuracy=0.0, perception=1.0, reasoning=0.0, malformed="missing_think"),
    ]
    assert step_meters(records, truncated=1) == {
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

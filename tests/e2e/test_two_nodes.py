"""VideoP2R's PA-GRPO in the real engines, over two nodes."""

from pathlib import Path

import pytest
from chain import copy_before, lines, run

TWO_NODES = ["cluster.nodes=2", "reward=videop2r", "advantage=pa_grpo", "rl.steps=2", "rl.save_every=2"]


@pytest.fixture(scope="module")
def two_nodes(demo) -> Path:
    """VideoP2R's RL from the demo's SFT: FSDP over two nodes of this machine, one vLLM server on each."""
    folder = copy_before("rl", demo, "two_nodes")
    run("rl", demo.parents[1], folder.name, *TWO_NODES, "rl.start_epoch=2")
    return folder


def test_rl_over_two_nodes(two_nodes):
    metrics = lines(two_nodes / "rl" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2]
    # The policy that rolls out on either node is the one that trains over both.
    assert min(line["data"]["training/rollout_actor_probs_pearson_corr"] for line in metrics) >= 0.999
    actor = two_nodes / "rl" / "checkpoints" / "global_step_2" / "actor"
    assert {path.name for path in actor.glob("model_world_size_*")} == {
        f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)
    }
    assert "127.0.0.3" in (two_nodes / "logs" / "rl.log").read_text()  # the second node has written there


def test_perception_and_reasoning_learn_apart(two_nodes):
    for step in lines(two_nodes / "rl" / "metrics.jsonl"):
        assert {"reward/perception", "reward/reasoning", "pa_grpo/collapsed/perception", "judge/verdicts"} <= set(
            step["data"]
        )
    records = [record for step in (1, 2) for record in lines(two_nodes / "rl" / "rollouts" / f"{step}.jsonl")]
    assert len(records) == 2 * 8 * 4
    for record in records:
        assert record["sample"]["id"] == record["id"] and "chain" not in record["sample"]
        assert record["rollout"].startswith(record["group"])
        tokens = record["perception_tokens"] + record["reasoning_tokens"]
        assert tokens == record["response_tokens"] and ("malformed" in record) == (record["format"] == 0)

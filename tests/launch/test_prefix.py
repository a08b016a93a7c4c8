"""A group as one sequence: the same log-probabilities, entropies and gradients as row by row, with fewer tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.compose import compose_recipe
from launch.planning.memory import HEAD_CHUNK
from launch.verl_plugin import prefix
from launch.verl_plugin.prefix import Group, attend, pack

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    side = Path(__file__).with_name("prefix_side.py")
    env = os.environ | {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin",
        "OMP_NUM_THREADS": "1",
    }
    env |= {"PYTHONPATH": str(side.parents[2])}
    done = subprocess.run([sys.executable, side], capture_output=True, text=True, env=env, cwd=side.parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_groups_give_the_log_probabilities_and_gradients_of_their_rows(found):
    assert len(found) == 6
    for case, of in found.items():
        assert of["log_probs"] < 1e-5 and of["entropy"] < 1e-5 and of["gradients"] < 1e-5, (case, of)


def test_a_prompt_passes_through_the_model_once_for_its_group(found):
    prompt, responses, padding = 19, sum(max(1, 17 - 2 * rollout) for rollout in range(8)), 2
    plain, shared = found["qwen2_5_vl 2x8 sharded"]["tokens"]
    assert shared == 2 * (prompt + responses) + padding
    assert plain == 17 * (prompt + 17)  # as many rows as long as the longest


def test_the_same_question_about_other_clips_is_another_group():
    ids, positions = [torch.arange(5)] * 3, [torch.arange(5).expand(4, -1)] * 3
    clips = [{"pixels": torch.zeros(2)}, {"pixels": torch.ones(2)}, {"pixels": torch.zeros(2)}]
    packed = pack(ids, positions, [3, 3, 3], clips)
    assert packed.groups == (Group(3, (2, 2)), Group(3, (2,)))
    assert packed.rows == (0, 2, 1) and packed.ids_S.tolist() == [0, 1, 2, 3, 4, 3, 4, 0, 1, 2, 3, 4]
    assert packed.before_N.tolist() == [2, 3, 2, 5, 9, 10] and packed.labels_N.tolist() == [3, 4, 3, 4, 3, 4]


def test_a_response_sees_its_prompt_and_itself_alone():
    query, key, value = torch.randn(3, 1, 2, 12, 4)
    groups = (Group(3, (2, 3)), Group(2, (2,)))
    expected, _ = attend(None, query, key, value, groups=groups)
    for changed, unseeing in ((3, {0, 1, 2, 5, 6, 7, 8, 9, 10, 11}), (7, set(range(12)) - {7}), (8, set(range(8)))):
        other = value.clone()
        other[:, :, changed] += 1
        differs = (attend(None, query, key, other, groups=groups)[0] != expected).any(-1).any(-1)[0]
        assert not differs[sorted(unseeing)].any() and differs[changed]


def test_layers_with_a_state_are_refused():
    class Config:
        layer_types = ("linear_attention", "full_attention")

        def get_text_config(self):
            return self

    model = torch.nn.Linear(1, 1)
    model.config = Config()
    with pytest.raises(ValueError, match="linear_attention; set it to false"):
        prefix.share_prefixes(model)


def test_families_with_a_state_are_trained_row_by_row():
    from launch.engines.families import shares_prefix

    kept = {
        name: shares_prefix(True, compose_recipe(["experiment=demo", f"model={name}"])[0].model.architecture)
        for name in ("tiny", "tiny_qwen3_vl", "tiny_qwen3_5")
    }
    assert kept == {"tiny": True, "tiny_qwen3_vl": True, "tiny_qwen3_5": False}


def test_the_plan_counts_the_chunk_that_the_head_uses():
    assert HEAD_CHUNK == prefix.CHUNK

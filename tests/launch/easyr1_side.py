"""What EasyR1 makes of the files that we rendered; run with its checkout on PYTHONPATH, where its `verl` hides ours.

python easyr1_side.py CONFIG RESPONSES OUT: OUT is JSON with the facts that tests/launch/test_easyr1.py compares.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

# The configuration of the rollout is wanted, not its engine, which needs EasyR1's own version of vLLM.
engine = types.ModuleType("verl.workers.rollout.vllm_rollout_spmd")
engine.vLLMRollout = None
sys.modules[engine.__name__] = engine

from verl.protocol import DataProto  # noqa: E402
from verl.trainer.config import PPOConfig  # noqa: E402
from verl.trainer.data_loader import create_dataloader  # noqa: E402
from verl.utils.tokenizer import get_processor, get_tokenizer  # noqa: E402
from verl.workers.reward import AutoRewardManager  # noqa: E402


def read_config(path: str) -> PPOConfig:
    """As EasyR1's verl/trainer/main.py reads `config=`."""
    config = OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(path))
    config = OmegaConf.to_object(config)
    config.deep_post_init()
    return config


def first_prompt(config: PPOConfig, tokenizer, processor) -> dict:
    loader, _ = create_dataloader(config.data, tokenizer, processor)
    row = loader.dataset[0]
    kept = row["attention_mask"].bool()
    return {
        "rows": len(loader.dataset),
        "prompt": row["input_ids"][kept].tolist(),
        "positions": row["position_ids"][:, kept].tolist(),
        "ground_truth": row["ground_truth"],
        "videos": row["multi_modal_data"]["videos"],
    }


def rewards(config: PPOConfig, tokenizer, responses: list[str], ground_truth: str) -> dict:
    """`overall` at each response's last token, and all components."""
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in responses]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    data = DataProto.from_dict(
        tensors={"responses": padded, "response_mask": mask},
        non_tensors={"ground_truth": np.array([ground_truth] * len(ids), dtype=object)},
    )
    tensor, metrics = AutoRewardManager(config.worker.reward, tokenizer).compute_reward(data)
    return {"last": [tensor[i, len(row) - 1].item() for i, row in enumerate(ids)], "metrics": dict(metrics)}


if __name__ == "__main__":
    config_file, responses_file, out = sys.argv[1:]
    config = read_config(config_file)
    tokenizer = get_tokenizer(config.worker.actor.model.model_path)
    processor = get_processor(config.worker.actor.model.model_path)
    facts = first_prompt(config, tokenizer, processor)
    texts = json.loads(Path(responses_file).read_text())
    facts["rewards"] = rewards(config, tokenizer, texts, facts["ground_truth"])
    facts["config"] = config.to_dict()
    Path(out).write_text(json.dumps(facts, default=str))

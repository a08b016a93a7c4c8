"""What verl's reward workers run on each response: the recipe's reward, on the very tokens that were sampled."""

import inspect
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from rewards.judge import UNJUDGED, RuleJudge, build
from rewards.motions import NAMES
from rewards.registry import REWARDS
from rewards.response import ParsedResponse, parse
from rewards.segments import byte_level_offsets, segment_lengths


class RewardManager(RewardManagerBase):
    """Scores one response at a time, a judge's requests side by side.

    `algorithm.camreasoner` holds `reward` and `judge`, each `{"name": ..., **settings}`, and `judge_consistency`.
    """

    def __init__(self, config, tokenizer, compute_score=None, **_) -> None:
        super().__init__(config, tokenizer, compute_score)
        ours = OmegaConf.to_container(config.algorithm.camreasoner, resolve=True)
        self.settings = ours["reward"]
        self.name = self.settings.pop("name")
        self.reward = REWARDS[self.name]
        self.judge = build(ours["judge"])
        self.consistency_judge = self.judge if ours["judge_consistency"] else None
        takes = inspect.signature(self.reward).parameters
        self.asks_judge, self.counts_tokens = "judge" in takes, "lengths" in takes
        self.decode_offsets = byte_level_offsets(tokenizer)

    async def run_single(self, data) -> dict[str, Any]:
        """verl's interface: `reward_score`, and in `reward_extra_info` the components and what is metered."""
        item = data[-1]  # of several outputs, the last one answers
        ids = item.batch["responses"]
        ids = ids[: int(item.batch["attention_mask"][-len(ids) :].sum())].tolist()
        components = await self.score(ids, _sample(item.non_tensor_batch["extra_info"]["sample"]))
        return {"reward_score": components["score"], "reward_extra_info": components}

    async def score(self, token_ids: list[int], sample: Mapping[str, Any]) -> dict[str, Any]:
        """Components of the reward; `malformed`, a slug of the reason, where it is; `mismatch` (0 or 1), where it can
        be told whether the thoughts lead to the answer; `judge/...`, totals of the judge so far."""
        response = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        schema = schema_of(self.name, self.settings, sample)
        extra: dict[str, Any] = {"judge": self.judge} if self.asks_judge else {}
        if self.counts_tokens:
            extra["lengths"] = segment_lengths(token_ids, self.decode_offsets, schema)
        components = self.reward(response, sample, **extra, **self.settings)
        if inspect.isawaitable(components):
            components = await components
        parsed = parse(response, schema)
        components = {**components, **await mismatch(parsed, sample, self.consistency_judge)}
        if not parsed.ok:
            components["malformed"] = slug(parsed.error)
        if self.asks_judge:
            components |= {f"judge/{name}": float(total) for name, total in self.judge.meters().items()}
        return components


def schema_of(name: str, settings: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
    """Schema that the reward `name` asks of a response to `sample`."""
    if name != "videochat_r1":
        return settings.get("schema", "ota")
    from rewards.videochat_r1 import SCHEMAS

    return SCHEMAS[settings.get("prompt", "thinking")][sample["task"] == "grounded_qa"]


async def mismatch(parsed: ParsedResponse, sample: Mapping[str, Any], judge: Any = None) -> dict[str, float]:
    """{"mismatch": 1.0} where the thoughts lead to another answer or to none, {} where that cannot be told.

    Asks `judge`, or goes by the motion lexicon where the question is about a motion.
    """
    if not parsed.ok or parsed.think is None or not (judge or _about_a_motion(sample)):
        return {}
    agree = await (judge or RuleJudge()).consistent(parsed.think, parsed.answer, sample)
    return {} if agree is UNJUDGED else {"mismatch": float(not agree)}


def _about_a_motion(sample: Mapping[str, Any]) -> bool:
    if sample["task"] == "choice":
        return set(sample["options"]) <= set(NAMES.values())
    return sample["task"] == "binary" and sample.get("extras", {}).get("asked") in NAMES


def slug(error: str) -> str:
    """The parser's reason as the last part of a metric's name: "missing <think>" -> "missing_think"."""
    return re.sub(r"[^a-z]+", "_", error.lower()).strip("_")


@lru_cache(maxsize=1024)
def _sample(text: str) -> dict[str, Any]:
    return json.loads(text)

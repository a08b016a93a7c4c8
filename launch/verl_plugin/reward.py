"""verl's reward workers run the recipe's reward on the tokens that were sampled."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from rewards.judges.build import build
from rewards.judges.protocol import UNJUDGED, Judge
from rewards.judges.rules import RuleJudge
from rewards.motions import NAMES
from rewards.overlong import overlong
from rewards.reading import chosen_option
from rewards.response import ParsedResponse
from rewards.scorer import Scorer
from rewards.segments import byte_level_offsets, segment_lengths


class RewardManager(RewardManagerBase):
    """Scores one response at a time; requests to a judge run concurrently.

    `algorithm.camreasoner` holds `reward` and `judge`, each `{"name": ..., **settings}`, `judge_consistency`, and
    `overlong`: what the penalty for long responses takes, or None.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        settings = config.algorithm.camreasoner
        self.judge = build(_plain(settings.judge))
        self.scorer = Scorer(_plain(settings.reward), self.judge)
        self.consistency_judge = self.judge if settings.judge_consistency else None
        self.overlong = _plain(settings.overlong) if settings.overlong else None
        self.decode_offsets = byte_level_offsets(tokenizer)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """verl's interface: `reward_score`, and in `reward_extra_info` what `score` gives."""
        item = data[-1]  # of several outputs, the last one answers
        ids = item.batch["responses"]
        ids = ids[: int(item.batch["attention_mask"][-len(ids) :].sum())].tolist()
        components = await self.score(ids, _sample(item.non_tensor_batch["extra_info"]["sample"]))
        return {"reward_score": components["score"], "reward_extra_info": components}

    async def score(self, token_ids: list[int], sample: Mapping[str, Any]) -> dict[str, Any]:
        """Components of the reward, with metrics of the response.

        Returns:
            the components; `chosen`, the option's index, of a question with a twin; `shuffled`, 1, of a
            contrast; `malformed`, a slug of the reason,
            of a malformed response; `mismatch` (0 or 1) where it is known whether the reasoning leads to the answer;
            `judge/...`, the judge's totals so far.
        """
        if self.scorer.counts_tokens:
            response, starts_T = self.decode_offsets(token_ids)
            parsed = self.scorer.parse(response, sample)
            lengths = segment_lengths(starts_T, parsed)
        else:
            parsed = self.scorer.parse(self.tokenizer.decode(token_ids, skip_special_tokens=True), sample)
            lengths = None
        scored: dict[str, Any] = {**await self.scorer.score(parsed, sample, lengths)}
        if self.overlong:
            scored["overlong"] = overlong(len(token_ids), **self.overlong)
            scored["score"] += scored["overlong"]
        scored |= await mismatch(parsed, sample, self.consistency_judge)
        if "counterpart" in (sample.get("extras") or {}) and parsed.ok:
            chosen = chosen_option(parsed.answer or "", sample["options"])
            scored |= {} if chosen is None else {"chosen": chosen}
        if (sample.get("extras") or {}).get("turn") == "shuffled":
            scored["shuffled"] = 1.0
        if parsed.error:
            scored["malformed"] = slug(parsed.error)
        if self.scorer.asks_judge:
            scored |= {f"judge/{name}": float(total) for name, total in self.judge.metrics().items()}
        return scored


async def mismatch(parsed: ParsedResponse, sample: Mapping[str, Any], judge: Judge | None = None) -> dict[str, float]:
    """{"mismatch": 1.0} where the reasoning leads to another answer or to none, {} where that is unknown.

    Asks `judge`; without one, the motion lexicon decides where the question is about a motion.
    """
    if not parsed.ok or parsed.think is None or not (judge or _about_a_motion(sample)):
        return {}
    agree = await (judge or RuleJudge()).consistent(parsed.think, parsed.parts["answer"], sample)
    return {} if agree is UNJUDGED else {"mismatch": float(not agree)}


def _about_a_motion(sample: Mapping[str, Any]) -> bool:
    if sample["task"] == "choice":
        return set(sample["options"]) <= set(NAMES.values())
    return sample["task"] == "binary" and sample.get("extras", {}).get("asked") in NAMES


def slug(error: str) -> str:
    """The parser's reason as the last part of a metric's name: "missing <think>" -> "missing_think"."""
    return re.sub(r"[^a-z]+", "_", error.lower()).strip("_")


@lru_cache(maxsize=1024)
def _sample(text: str) -> Any:
    return json.loads(text)


def _plain(settings: Any) -> Any:
    return OmegaConf.to_container(settings, resolve=True)

"""The recipe's reward as EasyR1 calls it: EasyR1 loads this file by its path, in its own environment.

The configuration hands over the settings of reward and judge; the sample is packed into `ground_truth` as JSON text.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from rewards.judges.build import build  # noqa: E402
from rewards.scorer import Scorer  # noqa: E402

REWARD_NAME = "camreasoner"
REWARD_TYPE = "batch"


@cache
def _scorer(reward: str, judge: str) -> Scorer:
    return Scorer(json.loads(reward), build(json.loads(judge)))


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]], reward: Mapping[str, Any], judge: Mapping[str, Any]
) -> list[dict[str, float]]:
    """Components of each response; EasyR1 takes `overall` for the reward and reports the others.

    Example:
        >>> sample = '{"task": "binary", "options": ["No", "Yes"], "answer": "B"}'
        >>> response = "<observation>o</observation><think>t</think><answer>Yes</answer>"
        >>> inputs = [{"response": response, "ground_truth": sample}]
        >>> compute_score(inputs, {"name": "camreasoner"}, {"name": "rules"})
        [{'overall': 1.0, 'accuracy': 1.0, 'format': 1.0}]
    """
    scorer = _scorer(json.dumps(reward), json.dumps(judge))

    async def score_all() -> list[dict[str, float]]:
        asked = (scorer.score(given["response"], json.loads(given["ground_truth"])) for given in reward_inputs)
        return await asyncio.gather(*asked)

    return [{"overall": score.pop("score"), **score} for score in asyncio.run(score_all())]

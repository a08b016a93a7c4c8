"""The function that verl's reward loop calls: the recipe's reward on one response."""

import json
from functools import lru_cache
from typing import Any

from rewards import camreasoner

REWARDS = {"camreasoner": camreasoner.reward}


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], *, name: str, **settings: Any
) -> dict[str, float]:
    """Reward components of a response; `extra_info["sample"]` is the sample as JSON text, `settings` the recipe's."""
    return REWARDS[name](solution_str, _sample(extra_info["sample"]), **settings)


@lru_cache(maxsize=1024)
def _sample(text: str) -> dict[str, Any]:
    return json.loads(text)

"""A judge from the recipe's `judge` group."""

from collections.abc import Mapping
from typing import Any

from rewards.judges.client import Endpoint, EndpointError
from rewards.judges.endpoint import EndpointJudge
from rewards.judges.protocol import Judge, JudgeError
from rewards.judges.rules import RuleJudge


def build(settings: Mapping[str, Any]) -> Judge:
    """The judge of a recipe (recipes/judge): `name` is rules or endpoint, the rest are its settings.

    Raises:
        JudgeError: an unknown name or a wrong setting.
    """
    settings = dict(settings)
    name = settings.pop("name", None)
    try:
        if name == "rules" and not settings:
            return RuleJudge()
        if name == "endpoint":
            settings.pop("weights_gb", None)  # what make plan counts with
            on_failure = settings.pop("on_failure", "error")
            return EndpointJudge(Endpoint(settings), on_failure)
    except EndpointError as error:
        raise JudgeError(f"judge: {error}") from error
    raise JudgeError(f"judge {name!r} {settings or ''}: choose rules (which has no settings) or endpoint")

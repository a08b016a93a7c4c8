"""Rewards by name, and the one way to call them.

A reward is a module of this package with

    reward(response, sample, *, [judge], [lengths], settings...)   components of a parsed response; may be `async`
    schema(task, *, settings...)   optional: schema of the responses to a task; without it the setting `schema`
    JUDGED_TASKS   optional: tasks that it scores besides those that a rule scores (`rewards.tasks.RULES`)

The settings' annotations and defaults are the types and defaults of the recipe group `reward`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from inspect import Parameter, isawaitable, signature
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import rewards
from rewards.errors import UserError
from rewards.response import SCHEMAS, ParsedResponse, parse
from rewards.tasks import RULES, TaskError, check_sample

if TYPE_CHECKING:
    from rewards.judges.protocol import Judge

_SCHEMA = Parameter("schema", Parameter.KEYWORD_ONLY, default="ota", annotation=Literal[tuple(SCHEMAS)])


class RewardError(UserError):
    """An unknown reward or setting, or a setting of the wrong type; the message names it."""


class Scorer:
    """A recipe's reward and its judge: scores responses.

    Attributes:
        asks_judge: whether the reward takes a judge.
        counts_tokens: whether it takes the number of tokens per segment.
        names: of the settings that it has.

    Example:
        >>> import asyncio
        >>> scorer = Scorer({"name": "camreasoner", "format_weight": 0.5})
        >>> sample = {"task": "binary", "options": ["No", "Yes"], "answer": "B"}
        >>> response = "<observation>o</observation><think>t</think><answer>No</answer>"
        >>> asyncio.run(scorer.score(response, sample))
        {'score': 0.5, 'accuracy': 0.0, 'format': 1.0}
        >>> Scorer({"name": "camreasoner", "format_wieght": 0.5})
        Traceback (most recent call last):
        rewards.scorer.RewardError: reward.format_wieght: unknown setting; camreasoner has format_weight, formula, \
wrong_penalty, fidelity_weight, schema
    """

    def __init__(self, settings: Mapping[str, Any], judge: "Judge | None" = None) -> None:
        """Take `{"name": ..., **settings}` of a recipe.

        Raises:
            RewardError: an unknown name or setting, or a setting of the wrong type.
        """
        module = _module(settings)
        given = signature(module.reward).parameters
        own = {name: each for name, each in given.items() if each.kind is Parameter.KEYWORD_ONLY}
        self.asks_judge, self.counts_tokens = "judge" in own, "lengths" in own
        self.judge = judge
        own = {name: each for name, each in own.items() if name not in ("judge", "lengths")}
        takes = own | _schema_settings(module)
        self.names = frozenset(takes)
        self.settings = {"name": settings["name"]} | checked("reward", settings, takes)
        self._reward: Callable[..., Any] = module.reward
        self._arguments = {name: self.settings[name] for name in own if name in self.settings}

    def schema(self, task: str) -> str:
        """Schema of the responses to a task."""
        return schema_for(self.settings, task)

    def parse(self, response: str, sample: Mapping[str, Any]) -> ParsedResponse:
        """Parse a response by the schema of the sample's task."""
        return parse(response, self.schema(sample["task"]))

    async def score(
        self,
        response: str | ParsedResponse,
        sample: Mapping[str, Any],
        lengths: Mapping[str, int] | None = None,
        judge: "Judge | None" = None,
    ) -> dict[str, float]:
        """Components of the reward, `score` among them.

        Args:
            response: its text, or the same parsed by `parse`.
            lengths: tokens per segment, {"perception": n, "reasoning": n}, for a reward that counts them.
            judge: to ask instead of the recipe's.

        Raises:
            ValueError, KeyError: a malformed sample, or lengths are missing; never because of the response.
            JudgeError: by the judge.
        """
        parsed = self.parse(response, sample) if isinstance(response, str) else response
        extra: dict[str, Any] = {"judge": judge or self.judge} if self.asks_judge else {}
        if self.counts_tokens:
            extra["lengths"] = lengths
        components = self._reward(parsed, sample, **extra, **self._arguments)
        scored: dict[str, float] = await components if isawaitable(components) else components
        return scored


def schema_for(settings: Mapping[str, Any], task: str) -> str:
    """Schema that the reward `{"name": ..., **settings}` asks of the responses to a task; "ota" without a reward.

    Raises:
        RewardError: an unknown reward.

    Example:
        >>> schema_for({"name": "videochat_r1", "prompt": "direct"}, "grounded_qa")
        'answer_glue'
    """
    if not settings:
        return str(_SCHEMA.default)
    module = _module(settings)
    if not hasattr(module, "schema"):
        return str(settings.get("schema", _SCHEMA.default))
    takes = _schema_settings(module)
    return str(module.schema(task, **{name: settings[name] for name in takes if name in settings}))


def require_scorable(sample: Mapping[str, Any], name: str) -> None:
    """Check, before any training, that the reward `name` can score the sample.

    Raises:
        TaskError: naming the sample and what is wrong.
        RewardError: an unknown reward.
    """
    task = sample.get("task")
    if task not in RULES and task not in getattr(_module({"name": name}), "JUDGED_TASKS", ()):
        others = [other for other in names() if task in getattr(_module({"name": other}), "JUDGED_TASKS", ())]
        hint = f"use reward={' or '.join(others)}" if others else f"choose from {', '.join(RULES)}"
        raise TaskError(f"sample {sample.get('id')!r}: reward={name} does not score the task {task}; {hint}")
    check_sample(sample)


def names() -> list[str]:
    """Of all rewards."""
    return [name for name in sorted(_modules()) if hasattr(import_module(f"rewards.{name}"), "reward")]


def checked(group: str, settings: Mapping[str, Any], takes: Mapping[str, Parameter]) -> dict[str, Any]:
    """Settings of a recipe group in the types of the parameters that take them, without `name`.

    Raises:
        RewardError: naming a setting that is unknown, missing or of the wrong type.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    finite = ConfigDict(allow_inf_nan=False)
    values = {}
    for name, value in settings.items():
        if name == "name":
            continue
        if name not in takes:
            known = f"has {', '.join(takes)}" if takes else "has no settings"
            raise RewardError(f"{group}.{name}: unknown setting; {settings['name']} {known}")
        try:
            values[name] = TypeAdapter(takes[name].annotation, config=finite).validate_python(value)
        except ValidationError as error:
            raise RewardError(f"{group}.{name}={value!r}: {error.errors()[0]['msg']}") from error
    if missing := [name for name, each in takes.items() if each.default is Parameter.empty and name not in values]:
        raise RewardError(f"{group}.{missing[0]}: {settings['name']} needs this setting")
    return values


def _schema_settings(module: ModuleType) -> dict[str, Parameter]:
    if not hasattr(module, "schema"):
        return {"schema": _SCHEMA}
    return {n: p for n, p in signature(module.schema).parameters.items() if p.kind is Parameter.KEYWORD_ONLY}


@cache
def _modules() -> set[str]:
    return {each.name for each in iter_modules(rewards.__path__) if not each.ispkg}


def _module(settings: Mapping[str, Any]) -> ModuleType:
    name = settings.get("name")
    if name not in _modules() or not hasattr(module := import_module(f"rewards.{name}"), "reward"):
        raise RewardError(f"reward.name={name}: choose from {', '.join(names())}")
    return module

"""The reward functions by name, each imported when first asked for."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from rewards.tasks import TaskError
from rewards.tasks import check_sample as check_any


class _Rewards(Mapping[str, Callable[..., Any]]):
    """Name -> `reward(response, sample, *, ...)`, a coroutine function where a judge may be asked."""

    _names = ("camreasoner", "videop2r", "videochat_r1")

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._names:
            raise KeyError(name)
        return import_module(f"rewards.{name}").reward

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


REWARDS: Mapping[str, Callable[..., Any]] = _Rewards()


def check_sample(sample: Mapping[str, Any], name: str) -> None:
    """Check, before any training, that the reward `name` can score the sample.

    Raises:
        TaskError: naming the sample and what is wrong.
    """
    if sample.get("task") == "caption" and name != "videochat_r1":
        raise TaskError(f"sample {sample.get('id')!r}: captions are scored by reward=videochat_r1 alone, not by {name}")
    check_any(sample)

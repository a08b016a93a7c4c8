"""One function over many items on all cores of this machine; a map over a cluster can be given in its place."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
IN_FLIGHT = 4096  # items that are handed out at once


class Map(Protocol):
    """(item, work(item)) of each item, in the order in which they are done."""

    def __call__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]: ...


@dataclass(frozen=True)
class Threads:
    """A map over threads of this process, one per core or `workers`; `work` waits for a process of its own."""

    workers: int | None = None

    def __call__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        def one(item: Item) -> tuple[Item, Result]:
            return item, work(item)

        with ThreadPool(self.workers or len(os.sched_getaffinity(0))) as pool:
            for start in range(0, len(items), IN_FLIGHT):
                yield from pool.imap_unordered(one, items[start : start + IN_FLIGHT])


ALL_CORES = Threads()

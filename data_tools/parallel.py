"""One function over many items, on all cores of this machine or over Ray; the order of results is nobody's business."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")
IN_FLIGHT = 4096  # items that are handed out at once


def each(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, ray: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) of each item, as they are done.

    Args:
        work: waits for a process of its own, since threads call it; over Ray it is pickled.
        workers: items in work at once; None takes one per core.
        ray: address of a cluster ("auto": the one that this machine belongs to, "local": one of its own). What a lost
            worker was at is given to another one.
    """
    if ray is not None:
        yield from _over_ray(work, items, workers, ray)
        return

    def one(item: Item) -> tuple[Item, Result]:
        return item, work(item)

    with ThreadPool(workers or len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(items), IN_FLIGHT):
            yield from pool.imap_unordered(one, items[start : start + IN_FLIGHT])


def _over_ray(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None, address: str
) -> Iterator[tuple[Item, Result]]:
    import ray

    if not items:
        return
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address=None if address == "local" else address,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}},
            logging_level="ERROR",
            log_to_driver=False,
            **({"include_dashboard": False, "num_cpus": workers} if address == "local" else {}),
        )
    try:
        task = ray.remote(num_cpus=1, max_retries=5)(work)
        waiting = iter(items)
        window = 2 * (workers or int(ray.cluster_resources().get("CPU", 1)))
        flying = {task.remote(item): item for item in islice(waiting, window)}
        while flying:
            done, _ = ray.wait(list(flying))
            for reference in done:
                yield flying.pop(reference), ray.get(reference)
                flying.update((task.remote(item), item) for item in islice(waiting, 1))
    finally:
        if mine:
            ray.shutdown()

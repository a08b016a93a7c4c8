"""One function over many items, on all cores of this machine or over Ray; the order of results is nobody's business."""

import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")
IN_FLIGHT = 4096  # items that are handed out at once
CONNECT_SECONDS = 10
RETRIES = 5  # of an item whose worker was lost


class WorkerError(RuntimeError):
    """Ray cannot be reached, or its workers end again and again; the message names the address or the cause."""


def each(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, ray: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) of each item, as they are done.

    Args:
        work: waits for a process of its own, since threads call it; over Ray it is pickled.
        workers: items in work at once; None takes one per core.
        ray: address of a cluster ("auto": the one that this machine belongs to, "local": one of its own). What a lost
            worker was at is given to another one.

    Raises:
        WorkerError: no such cluster, or an item that several workers were lost over.
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
    if not items:
        return

    def one(item: Item) -> Result:  # `work` may be a partial, which Ray does not take
        return work(item)

    with on_ray(address, workers):
        import ray
        from ray.exceptions import RayError, RayTaskError

        task = ray.remote(num_cpus=1, max_retries=RETRIES)(one)
        waiting = iter(items)
        window = 2 * (workers or int(ray.cluster_resources().get("CPU", 1)))
        flying = {task.remote(item): item for item in islice(waiting, window)}
        while flying:
            done, _ = ray.wait(list(flying))
            for reference in done:
                item = flying.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError:  # raised by `work` itself
                    raise
                except RayError as error:
                    raise WorkerError(f"Ray gave up on {item}: {' '.join(str(error).split())}") from error
                yield item, result
                flying.update((task.remote(item), item) for item in islice(waiting, 1))


@contextmanager
def on_ray(address: str, workers: int | None = None) -> Iterator[None]:
    """A connection to Ray at `address`, or the one that there is. A node of our own listens on loopback, for us alone.

    Raises:
        WorkerError: no cluster answers there.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    settings = {}
    if address == "local":
        from ray._private import ray_constants

        # As on a desktop: all ports on loopback. With any _node_ip_address most are open to everybody (Ray 2.60.0).
        ray_constants.ENABLE_RAY_CLUSTER = False
        # Ray asks for a token on a node of one's own, and would keep its own choice in the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings = {
            "_temp_dir": f"{tempfile.gettempdir()}/ray",
            "include_dashboard": False,
            "num_cpus": workers,
            "object_store_memory": 10**8,  # nothing large is passed
        }
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(
            address,
            **settings,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}},
            logging_level="ERROR",
            log_to_driver=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkerError(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()

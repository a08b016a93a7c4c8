"""One function over many items on a Ray cluster; `data_tools` takes it in place of its own map over this machine."""

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from data_tools.media.parallel import Map, Threads
from launch.engines.environment import WAITS
from launch.engines.inherited import short_temporary
from launch.engines.patches import ray as patches
from launch.recipe import Recipe
from rewards.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[3]
CONNECT_SECONDS = 10
RETRIES = 5  # of an item whose worker was lost


class WorkerError(UserError):
    """Ray cannot be reached, or its workers die again and again; the message names the address or the cause."""


@dataclass(frozen=True)
class RayMap:
    """A `data_tools.media.parallel.Map` over a Ray cluster; an item whose worker was lost is given to another one.

    Attributes:
        address: of the cluster ("auto": the one that this machine belongs to, "local": one of its own).
        workers: items in work at once; None takes one per core.
    """

    address: str
    workers: int | None = None

    def __call__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        """(item, work(item)) of each item, as they are done; `work` is pickled.

        Raises:
            WorkerError: no such cluster, or an item that several workers were lost over.
        """
        if not items:
            return

        def one(item: Item) -> Result:  # `work` may be a partial, which Ray does not take
            return work(item)

        with connected(self.address, self.workers):
            import ray
            from ray.exceptions import RayError, RayTaskError

            task = ray.remote(num_cpus=1, max_retries=RETRIES)(one)
            waiting = iter(items)
            window = 2 * (self.workers or int(ray.cluster_resources().get("CPU", 1)))
            in_flight = {task.remote(item): item for item in islice(waiting, window)}
            while in_flight:
                done, _ = ray.wait(list(in_flight))
                for reference in done:
                    item = in_flight.pop(reference)
                    try:
                        result = ray.get(reference)
                    except RayTaskError:  # raised by `work` itself
                        raise
                    except RayError as error:
                        raise WorkerError(f"Ray gave up on {item}: {' '.join(str(error).split())}") from error
                    yield item, result
                    in_flight.update((task.remote(item), item) for item in islice(waiting, 1))


@contextmanager
def connected(address: str, workers: int | None = None) -> Iterator[None]:
    """A connection to Ray at `address`, or the existing one. A local node listens on loopback, for this process alone.

    Raises:
        WorkerError: no cluster answers there.
    """
    for name, value in WAITS.items():  # which Ray reads when it is imported
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    settings = _local_node(workers) if address == "local" else {}
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(
            address,
            **settings,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            logging_level="ERROR",
            log_to_driver=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkerError(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _local_node(workers: int | None) -> dict[str, Any]:
    from ray._private import ray_constants

    patches.apply()
    # As on a desktop: all ports on loopback. With any _node_ip_address most are open to everybody (Ray 2.60.0).
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Ray asks for a token on a local node, and would keep its own choice in the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return {
        "_temp_dir": str(short_temporary("ray")),
        "include_dashboard": False,
        "num_cpus": workers,
        "object_store_memory": 10**8,  # nothing large is passed
    }


def clip_map(recipe: Recipe) -> Map:
    """Where videos are decoded: on this machine, or on the recipe's cluster."""
    cluster = recipe.cluster
    return Threads(cluster.cpus) if cluster.address is None else RayMap(cluster.address, cluster.cpus)

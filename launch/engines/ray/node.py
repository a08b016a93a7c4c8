"""Start Ray nodes that live as long as the process that started them (`start.py`):

python -m launch.engines.ray.node '{"num_cpus": 16, ...}' [NODES]

Prints one line, {"address": ..., "raylet": process id}, and waits to be killed; Ray's daemons end with it, and it with
them. Several nodes on one machine, each a raylet with an address of its own, are for testing what a cluster does.
"""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

import psutil
import ray

from launch.engines.cleanup import die_with_parent
from launch.engines.patches import ray as patches

DAEMONS = ("gcs_server", "raylet")


def main(settings: str, nodes: str = "1") -> None:
    die_with_parent()
    patches.apply()
    threading.Thread(target=end_with_daemons, daemon=True).start()
    init = json.loads(settings)
    # Not 127.0.0.1 for several nodes: Ray replaces it by the machine's own address (services.py).
    address = {} if nodes == "1" else {"_node_ip_address": "127.0.0.2"}
    context = ray.init(**init, **address, log_to_driver=False)
    raylet = next(child.pid for child in psutil.Process().children() if child.name() == "raylet")
    workers = [add_node(context.address_info["gcs_address"], f"127.0.0.{3 + i}", init) for i in range(int(nodes) - 1)]
    sys.stdout.write(json.dumps({"address": context.address_info["gcs_address"], "raylet": raylet}) + "\n")
    sys.stdout.flush()
    os.close(1)
    signal.pause()
    del workers


def end_with_daemons(seconds: float = 1.0) -> None:
    """End this process as soon as a daemon has ended; Ray itself would wait for it as long as for a slow one."""
    while True:
        for child in psutil.Process().children():
            try:
                name, status = child.name(), child.status()
            except psutil.NoSuchProcess:
                continue
            if name in DAEMONS and status == psutil.STATUS_ZOMBIE:
                sys.stderr.write(f"Ray's {name} has ended\n")
                sys.stderr.flush()
                os._exit(1)
        time.sleep(seconds)


def add_node(gcs_address: str, address: str, settings: dict[str, Any]) -> Any:
    """A worker node on this machine that ends with this process; what `ray start --address` starts."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    resources = {key: settings[key] for key in ("num_cpus", "num_gpus", "object_store_memory") if key in settings}
    temporary = {"temp_dir": settings["_temp_dir"]} if "_temp_dir" in settings else {}
    parameters = RayParams(
        gcs_address=gcs_address,
        node_ip_address=address,
        include_log_monitor=False,
        **resources,
        **temporary,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
    )
    return Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

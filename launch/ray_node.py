"""Ray nodes that live as long as the process that started them:

python -m launch.ray_node '{"num_cpus": 16, ...}' [NODES]

Writes one line, {"address": ..., "raylet": process id}, and waits to be ended. Ray's daemons end with it. Several nodes
on one machine, each a raylet with an address of its own, are for trying out what a cluster does.
"""

import json
import os
import signal
import sys
from typing import Any

import psutil
import ray

from launch.process import die_with_parent


def main(settings: str, nodes: str = "1") -> None:
    die_with_parent()
    own = json.loads(settings)
    # Not 127.0.0.1 where there are several: Ray replaces that by the machine's own (services.py).
    address = {} if nodes == "1" else {"_node_ip_address": "127.0.0.2"}
    context = ray.init(**own, **address, log_to_driver=False)
    raylet = next(child.pid for child in psutil.Process().children() if child.name() == "raylet")
    further = [add_node(context.address_info["gcs_address"], f"127.0.0.{3 + i}", own) for i in range(int(nodes) - 1)]
    sys.stdout.write(json.dumps({"address": context.address_info["gcs_address"], "raylet": raylet}) + "\n")
    sys.stdout.flush()
    os.close(1)
    signal.pause()
    del further


def add_node(gcs_address: str, address: str, settings: dict[str, Any]) -> Any:
    """A worker node on this machine, ended with this process; what `ray start --address` starts."""
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

"""A Ray node that lives as long as the process that started it: python -m launch.ray_node '{"num_cpus": 16, ...}'

Writes one line, {"address": ..., "raylet": process id}, and waits to be ended. Ray's daemons end with it.
"""

import json
import os
import signal
import sys

import psutil
import ray

from launch.process import die_with_parent


def main(settings: str) -> None:
    die_with_parent()
    # A loopback address, but not 127.0.0.1: Ray replaces that by the machine's own (services.py).
    context = ray.init(**json.loads(settings), _node_ip_address="127.0.0.2", log_to_driver=False)
    raylet = next(child.pid for child in psutil.Process().children() if child.name() == "raylet")
    sys.stdout.write(json.dumps({"address": context.address_info["gcs_address"], "raylet": raylet}) + "\n")
    sys.stdout.flush()
    os.close(1)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])

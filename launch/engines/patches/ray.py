"""Patches of Ray."""

import socket
from contextlib import ExitStack
from typing import Any

from launch.engines.patches.hooks import after_import

AGENTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def apply() -> None:
    """Run every patch after the import of its module."""
    after_import("ray._private.node")(ports_of_agents)


def ports_of_agents(module: Any) -> None:
    """Ray 2.60.0, raylet/node_manager.cc:3576: a raylet aborts when its agents, two Python processes, have not written
    down after 15 s which ports they took; on a busy machine they import for longer. No setting changes that.

    With the patch the ports are chosen before the raylet starts, so that it waits for no agent.
    """
    from ray._raylet import persist_port  # type: ignore[attr-defined]  # compiled

    start = module.Node.start_raylet

    def start_raylet(self: Any, *args: Any, **settings: Any) -> None:
        for name, port in zip(AGENTS, _free_ports(len(AGENTS)), strict=True):
            setattr(self._ray_params, name, port)
            # Of the second agent's ports, one is not handed to the raylet (services.py:1970): it reads the file.
            persist_port(self._session_dir, self._node_id, name, port)
        start(self, *args, **settings)

    module.Node.start_raylet = start_raylet


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]

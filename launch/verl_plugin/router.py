"""Which vLLM server answers a rollout: all rollouts of a prompt go to one, whose caches then have its clip.

verl's own balancer sends each rollout to the least busy server (verl 0.9.1, workers/rollout/router.py:196): with eight
servers and groups of eight every server encodes every clip.
"""

import re
from typing import Any

from verl.workers.rollout.router import GlobalRequestLoadBalancer

_REQUEST = re.compile(r"\w+\.(\d+)/\d+")  # <step>.<number of the prompt>/<rollout>: trainer.py, held_out.py, rollout.py


class Router(GlobalRequestLoadBalancer):
    """verl's balancer, but the n-th prompt of a step goes to server n modulo their number, with all its rollouts.

    The prompts of a round are sent at once to servers that are idle, so the least busy one for the next prompt is the
    next in turn; counted this way it depends on neither the order of arrival nor the time. The numbers of prompts of
    two servers differ by at most one in a step. Nothing is kept of a group. Requests that are named otherwise (another
    agent loop's) are balanced by verl.
    """

    def __init__(self, servers: dict[str, Any], _settings: dict[str, Any] | None = None) -> None:
        super().__init__(servers)

    def acquire_server(self, request_id: str) -> tuple[str, Any]:
        """Name and handle of the server of a request."""
        named = _REQUEST.fullmatch(request_id)
        if named is None or not self._servers:
            return super().acquire_server(request_id)
        server = list(self._servers)[int(named[1]) % len(self._servers)]
        self._inflight_requests[server] += 1
        return server, self._servers[server]

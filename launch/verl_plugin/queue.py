"""Rows of verl's TransferQueue. Imports nothing of verl."""

from typing import Any

import transfer_queue as tq


class RolloutError(RuntimeError):
    """Rollouts that failed; verl itself would continue without them."""


def fields_of(key: str) -> dict[str, Any]:
    """All fields of a rollout in verl's queue."""
    row = tq.kv_batch_get(keys=[key], partition_id="train")[0]
    return {name: row[name] for name in row.keys()}  # noqa: SIM118 (no dict)


def row_order(key: str) -> tuple[str, int, int]:
    """A row's key is prompt_rollout_output (agent_loop_tq.py)."""
    prompt, rollout, output = key.rsplit("_", 2)
    return prompt, int(rollout), int(output)


def plain(column: Any) -> list[Any]:
    """verl's non-tensor columns hold bare values or wrappers, by transport."""
    return [getattr(value, "data", value) for value in list(column)]

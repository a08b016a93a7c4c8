"""What the papers print, of evaluation/papers.yaml: facts about other models on other data, which tables mark."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from evaluation.measures.bootstrap import Estimate
from evaluation.table import PAPER, Row


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("papers.yaml").read_text(encoding="utf-8"))
    return content


def papers() -> dict[str, Any]:
    """The papers' tables by name."""
    return {name: spec for name, spec in _content().items() if name != "analyses"}


def figures(printed: Sequence[float | None]) -> tuple[Estimate | None, ...]:
    """Percentages as shares, without an interval; None where the paper has none."""
    return tuple(None if figure is None else Estimate(figure / 100) for figure in printed)


def analysis(table: str, reward: str) -> tuple[list[Row], str]:
    """Lines of the paper for a report's table, and where they are from; none for runs with another paper's reward.

    Example:
        >>> rows, source = analysis("observed", "videop2r")
        >>> rows[0].name, rows[0].values[0].value, source[:18]
        ('Qwen2.5-VL-7B, question alone†', 0.529, 'VideoP2R, Figure 4')
        >>> analysis("observed", "camreasoner")
        ([], '')
    """
    spec = _content()["analyses"][table]
    if reward != spec["reward"]:
        return [], ""
    rows = [Row(f"{label}{PAPER}", figures(printed), kind="paper") for label, printed in spec["rows"].items()]
    return rows, f"{spec['source']}: {spec['note']}"

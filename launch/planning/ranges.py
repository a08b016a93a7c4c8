"""Estimates with their error bars."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

GB = 1e9
# Bytes per trained parameter (verl's FSDP engine and ZeRO-3 with mixed precision): weight and gradient in float32, two
# Adam moments in float32.
WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
BF16, FP32 = 2, 4


@dataclass(frozen=True)
class Range:
    """A number with its error bar."""

    low: float
    likely: float
    high: float

    def __iter__(self) -> Iterator[float]:
        return iter(astuple(self))

    def __add__(self, other: "Range | float") -> "Range":
        return Range(*(a + b for a, b in zip(self, as_range(other))))

    def __radd__(self, other: float) -> "Range":  # for sum()
        return self + other

    def __mul__(self, other: "Range | float") -> "Range":
        return Range(*(a * b for a, b in zip(self, as_range(other))))

    def __rmul__(self, other: float) -> "Range":
        return self * other

    def __rtruediv__(self, numerator: float) -> "Range":
        """`numerator / self`: the largest divisor gives the smallest value.

        Example:
            >>> 12 / Range(2.0, 3.0, 4.0)
            Range(low=3.0, likely=4.0, high=6.0)
        """
        return Range(numerator / self.high, numerator / self.likely, numerator / self.low)

    def capped(self, top: float) -> "Range":
        return Range(*(min(value, top) for value in self))

    def show(self, unit: str) -> str:
        low, likely, high = (f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in self)
        return f"{likely} {unit}" if low == likely == high else f"{likely} {unit} ({low}–{high})"


def as_range(value: "Range | float") -> Range:
    return value if isinstance(value, Range) else Range(value, value, value)


@lru_cache(maxsize=1)
def calibration() -> dict[str, Any]:
    """`calibration.yaml`, its triples as ranges."""
    table: dict[str, Any] = as_ranges(yaml.safe_load(Path(__file__).with_name("calibration.yaml").read_text()))
    return table


def as_ranges(node: Any) -> Any:
    """A tree of YAML with its triples as ranges."""
    if isinstance(node, dict):
        return {key: as_ranges(value) for key, value in node.items()}
    return Range(*map(float, node)) if isinstance(node, list) else node

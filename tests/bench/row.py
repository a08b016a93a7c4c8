"""What a comparison measures."""

from typing import NamedTuple


class Row(NamedTuple):
    """Seconds (or MB) of both sides for the same work, measured in one run; their ratio is the test."""

    what: str
    camreasoner: float
    baseline: float
    at_most: float

    @property
    def ratio(self) -> float:
        return self.camreasoner / self.baseline

    @property
    def passes(self) -> bool:
        return self.ratio <= self.at_most

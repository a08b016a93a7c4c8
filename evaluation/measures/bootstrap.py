"""Paired bootstrap over clusters (videos), vectorised over resamples.

Row 0 of every array is the sample itself, rows 1 to R are the resamples. So a statistic is written once, on arrays, and
gives its value and its interval together. Two models that use the same `Resamples` are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A number, and its 95 % percentile interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


class Resamples:
    """How often each resample draws each item; items of one cluster are drawn together.

    Args:
        clusters: cluster of each item. An item of two clusters (a pair of videos) is drawn as often as the product
            of how often both are (node bootstrap of dyadic data).
        seed: of the draws.
        count: number of resamples; 0 gives values without intervals.

    Example: four questions about two videos, three of them right.
        >>> resamples = Resamples(["a.mp4", "a.mp4", "b.mp4", "b.mp4"], seed=0)
        >>> right = np.array([1, 1, 1, 0])
        >>> everything = np.ones((4, 1))
        >>> estimate(resamples.means(right, everything)[:, 0])
        Estimate(value=0.75, low=0.5, high=1.0)
    """

    def __init__(self, clusters: Sequence[str | tuple[str, str]], seed: int = 0, count: int = RESAMPLES):
        pairs = [cluster if isinstance(cluster, tuple) else (cluster,) for cluster in clusters]
        names = sorted({name for pair in pairs for name in pair})
        index = {name: i for i, name in enumerate(names)}
        self.clusters, self.seed, self.count = len(names), seed, count
        self._members = [np.array([index[pair[k % len(pair)]] for pair in pairs], int) for k in (0, 1)]
        self._single = all(len(pair) == 1 for pair in pairs)
        drawn_RC = np.ones((1 + count, len(names)))
        if count and names:
            share = np.full(len(names), 1 / len(names))
            drawn_RC[1:] = np.random.default_rng(seed).multinomial(len(names), share, size=count)
        self._drawn_RC = drawn_RC

    @cached_property
    def weights_RN(self) -> np.ndarray:
        """How often each resample draws each item."""
        first, second = (self._drawn_RC[:, members] for members in self._members)
        return first if self._single else np.multiply(first, second)

    def sums(self, columns_NK: np.ndarray) -> np.ndarray:
        """Sums of per-item columns over each resample, shape [1 + R, K]."""
        columns_NK = np.asarray(columns_NK, float)
        if not self._single:
            return np.asarray(self.weights_RN @ columns_NK)
        by_cluster_CK = np.zeros((self.clusters, columns_NK.shape[1]))
        np.add.at(by_cluster_CK, self._members[0], columns_NK)
        return np.asarray(self._drawn_RC @ by_cluster_CK)

    def means(self, values_N: np.ndarray, masks_NG: np.ndarray) -> np.ndarray:
        """Mean of `values_N` in each group, shape [1 + R, G]; NaN where a resample draws no item of a group."""
        masks_NG = np.asarray(masks_NG, float)
        sums = self.sums(np.hstack([np.asarray(values_N, float)[:, None] * masks_NG, masks_NG]))
        total, count = np.split(sums, 2, axis=1)
        return ratio(total, count)

    def caption(self, unit: str = "videos") -> str:
        return f"95 % percentile bootstrap over {self.clusters} {unit}, {self.count} resamples, seed {self.seed}"


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """part / whole; `empty` where the whole is 0."""
    found = np.full(np.broadcast(part, whole).shape, empty)
    np.divide(part, whole, out=found, where=whole != 0)
    return found


def over_groups(values_GR: Sequence[np.ndarray]) -> np.ndarray:
    """Unweighted mean over groups; in a resample, over the groups of which it draws an item."""
    stacked = np.stack(list(values_GR))
    drawn = ~np.isnan(stacked)
    return ratio(np.where(drawn, stacked, 0.0).sum(0), drawn.sum(0).astype(float))


def estimate(values_R: np.ndarray) -> Estimate | None:
    """Row 0 with the interval of the rest; None where it is undefined. Undefined resamples are left out."""
    if np.isnan(values_R[0]):
        return None
    resampled = values_R[1:][~np.isnan(values_R[1:])]
    if not len(resampled):
        return Estimate(float(values_R[0]))
    low, high = np.percentile(resampled, INTERVAL)
    return Estimate(float(values_R[0]), float(low), float(high))

"""Benchmarks by name: readers of the published labels, official metrics, trivial baselines.

To add one: a `Benchmark` in a module here, and its module in `_MODULES`.
"""

from evaluation.benchmarks import camerabench, choice, grounding, judged, own
from evaluation.benchmarks.base import Benchmark, LabelError, Result, evaluate, read_labels

_MODULES = (own, camerabench, choice, grounding, judged)
BENCHMARKS: dict[str, Benchmark] = {b.name: b for module in _MODULES for b in module.BENCHMARKS}
NEED_A_JUDGE = ("dream1k", "vcrbench")  # without one there is no number at all

__all__ = ["BENCHMARKS", "NEED_A_JUDGE", "Benchmark", "LabelError", "Result", "evaluate", "read_labels"]

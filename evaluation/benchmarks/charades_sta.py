"""Charades-STA: temporal grounding."""

from evaluation.benchmarks.temporal_grounding import grounding_benchmark

CHARADES = grounding_benchmark("charades_sta", "Charades-STA, temporal grounding")

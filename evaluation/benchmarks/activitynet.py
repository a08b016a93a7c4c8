"""ActivityNet Captions: temporal grounding."""

from evaluation.benchmarks.temporal_grounding import grounding_benchmark

ACTIVITYNET = grounding_benchmark("activitynet", "ActivityNet Captions, temporal grounding")

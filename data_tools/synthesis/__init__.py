"""Reasoning chains for SFT: a large model writes them, filters keep the valid ones (docs/synthesis.md)."""

"""Reasoning chains for SFT: a large model writes them, filters keep the sound ones (docs/synthesis.md)."""

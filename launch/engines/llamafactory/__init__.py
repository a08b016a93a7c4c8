"""LLaMA-Factory: SFT."""

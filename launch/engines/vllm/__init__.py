"""vLLM: responses and option probabilities."""

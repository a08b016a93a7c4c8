"""verl: GRPO."""

"""EasyR1 (0.3.3): GRPO, in an environment of its own; nothing of it is imported here."""

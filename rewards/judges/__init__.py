"""Judges: verdicts, by rules or by a language model, where there is no answer key."""

"""Clips of the media budget: probed, normalised, stored."""

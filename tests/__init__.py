"""Tests; a package, so that no other package of this name stands in its place."""

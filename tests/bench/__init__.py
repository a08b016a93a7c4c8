"""Times of the parts that a run waits for: `make bench`."""

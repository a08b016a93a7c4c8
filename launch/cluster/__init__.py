"""Jobs on a Ray cluster, and sweeps."""

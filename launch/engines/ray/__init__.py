"""Ray: nodes of our own, and what each node of a cluster must have."""

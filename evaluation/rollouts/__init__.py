"""What can be computed from recorded rollouts."""

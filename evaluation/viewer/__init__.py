"""The viewer of answers: RL's rollouts and evaluation answers of a run in a browser, also while it trains."""

"""Scores of Yes/No questions: the probability that a model gives to an option."""

from collections.abc import Sequence

import numpy as np

from evaluation.grading import Graded


def option_scores(graded: Sequence[Graded], text: str) -> np.ndarray | None:
    """Probability of the option `text` ("yes" or "no") of every item, NaN where it is missing; None without any."""
    scores = [j.probability(next(o for o in j.sample.options if o.casefold() == text)) for j in graded]
    return None if all(s is None for s in scores) else np.array([np.nan if s is None else s for s in scores])

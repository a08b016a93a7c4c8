"""Metrics of Yes/No questions with weights per item, vectorised over resamples (rows of weights)."""

import numpy as np

from evaluation.measures.bootstrap import ratio

CHUNK = 64  # resamples at a time: their ranked weights stay in the processor's cache


def ranking(weights_RN: np.ndarray, gold_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and area under the ROC curve, as scikit-learn defines them, for each row of weights.

    Average precision is the sum of (recall step) x precision over falling thresholds. The area is the share of
    (Yes, No) pairs that the scores order correctly; ties count one half. An item without a score (NaN) gets the worst
    place: a Yes is never found, a No comes before everything. So a failure never raises the result. Ranking a missing
    Yes last could raise it, among ties.

    Args:
        weights_RN: how often each row counts each item.
        gold_N: bool, whether Yes is right.
        scores_N: higher means more likely Yes.

    Returns:
        two arrays [R]; NaN in rows without a Yes or without a No.
    """
    gold_N, unscored = gold_N.astype(bool), np.isnan(scores_N)
    ranks = np.where(unscored, np.where(gold_N, -np.inf, np.inf), scores_N)
    order = np.argsort(-ranks, kind="stable")
    falling, gold = ranks[order], gold_N[order].astype(float)
    ends = np.append(np.nonzero(falling[1:] != falling[:-1])[0], len(order) - 1)  # last place of each group of ties
    found = len(ends) - bool((unscored & gold_N).any())  # groups in which a Yes is found: missing scores are the last
    ap, auc = np.empty(len(weights_RN)), np.empty(len(weights_RN))
    for start in range(0, len(weights_RN), CHUNK):
        rows = slice(start, start + CHUNK)
        weights = weights_RN[rows][:, order]
        drawn = np.cumsum(weights, axis=1)[:, ends]
        tp = np.cumsum(weights * gold, axis=1)[:, ends]
        positives, negatives = tp[:, -1], drawn[:, -1] - tp[:, -1]
        both = positives * negatives
        before = np.hstack([np.zeros((len(tp), 1)), tp[:, :-1]])
        gained = ((tp - before) * ratio(tp, drawn, 0.0))[:, :found].sum(1)
        ap[rows] = np.where(both == 0, np.nan, ratio(gained, positives))
        fp = drawn - tp
        fp[:, 1:] -= fp[:, :-1].copy()
        auc[rows] = ratio((fp * (tp + before)).sum(1) / 2, both)
    return ap, auc


def decisions(yes: np.ndarray, yes_right: np.ndarray, no: np.ndarray, no_right: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of answers from four counts of one shape: gold Yes, of these right, gold No, of these right.

    Every answer that is not right counts as the opposite one, a malformed one too: on a No it is a false Yes. Precision
    and F1 are 0 where no answer is Yes, MCC is 0 where one answer is never given, as in scikit-learn.
    """
    tp, fn, tn, fp = yes_right, yes - yes_right, no_right, no - no_right
    defined = np.where((yes > 0) & (no > 0), 1.0, np.nan)
    precision, recall = ratio(tp, tp + fp, 0.0), ratio(tp, yes)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "balanced accuracy": (recall + ratio(tn, no)) / 2,
        "precision": precision * defined,
        "recall": recall * defined,
        "F1": ratio(2 * tp, 2 * tp + fp + fn, 0.0) * defined,
        "MCC": ratio(tp * tn - fp * fn, root, 0.0) * defined,
        "accuracy": ratio(tp + tn, yes + no),
    }

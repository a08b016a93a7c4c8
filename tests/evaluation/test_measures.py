import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    roc_auc_score,
)

from evaluation.measures.bootstrap import Resamples, estimate
from evaluation.measures.yes_no import decisions, ranking

ITEMS = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=30)


@given(ITEMS)
def test_ranking_metrics_are_those_of_scikit_learn_with_weights(items):
    gold, scores, weights = (np.array(column) for column in zip(*items))
    both = weights[gold].sum() > 0 and weights[~gold].sum() > 0
    found = [metric[0] for metric in ranking(weights[None].astype(float), gold, scores / 4)]
    if not both:
        assert np.isnan(found).all()
        return
    assert found[0] == pytest.approx(average_precision_score(gold, scores, sample_weight=weights), abs=1e-12)
    assert found[1] == pytest.approx(roc_auc_score(gold, scores, sample_weight=weights), abs=1e-12)


@given(ITEMS, st.data())
def test_a_lost_score_never_raises_a_ranking_metric(items, data):
    gold, scores, _ = (np.array(column) for column in zip(*items))
    scores = scores / 4
    scores[data.draw(st.lists(st.integers(0, len(gold) - 1), max_size=5))] = np.nan
    lost = scores.copy()
    lost[data.draw(st.integers(0, len(gold) - 1))] = np.nan
    if gold.all() or not gold.any():
        return
    weights = np.ones((1, len(gold)))
    for after, before in zip(ranking(weights, gold, lost), ranking(weights, gold, scores)):
        assert after[0] <= before[0] + 1e-12


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_decisions_are_those_of_scikit_learn(items):
    gold, told = (np.array(column) for column in zip(*items))
    right = gold == told
    counts = [np.array([float(x.sum())]) for x in (gold, gold & right, ~gold, ~gold & right)]
    found = {name: values[0] for name, values in decisions(*counts).items()}
    if gold.all() or not gold.any():
        assert np.isnan(found["balanced accuracy"])
        return
    assert found["balanced accuracy"] == pytest.approx(balanced_accuracy_score(gold, told))
    assert found["precision"] == pytest.approx(precision_score(gold, told, zero_division=0))
    assert found["F1"] == pytest.approx(f1_score(gold, told, zero_division=0))
    assert found["MCC"] == pytest.approx(matthews_corrcoef(gold, told))
    assert found["accuracy"] == pytest.approx(right.mean())


def test_resampled_means_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    clusters = [f"v{rng.integers(6)}" for _ in range(25)]
    values, group = rng.random(25), rng.random(25) < 0.6
    resamples = Resamples(clusters, seed=3, count=20)
    found = resamples.means(values, group[:, None])[:, 0]
    for row, weights in zip(found, resamples.weights_RN):
        drawn = [v for v, w, g in zip(values, weights, group) for _ in range(int(w)) if g]
        assert row == pytest.approx(np.mean(drawn) if drawn else np.nan, nan_ok=True)
    assert found[0] == pytest.approx(values[group].mean())


def test_a_pair_is_drawn_as_often_as_both_its_videos():
    resamples = Resamples([("a", "b"), ("b", "c"), ("a", "a")], seed=1, count=50)
    single = Resamples(["a", "b", "c"], seed=1, count=50)
    a, b, c = single.weights_RN.T
    assert (resamples.weights_RN == np.stack([a * b, b * c, a * a], axis=1)).all()
    assert resamples.clusters == 3


def test_an_estimate_leaves_undefined_resamples_out():
    assert estimate(np.array([np.nan, 1.0])) is None
    found = estimate(np.array([0.5, 0.2, np.nan, 0.4]))
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.205), pytest.approx(0.395))

"""Recorded metrics of runs that went wrong, each in its own way, and what is said of them."""

import numpy as np
import pytest

from evaluation.diagnosis import RULES, diagnose

CORRELATION = "training/rollout_actor_probs_pearson_corr"
HEALTHY = {
    "groups/collapsed": 0.3,
    "actor/entropy": 0.5,
    "response_length/mean": 40.0,
    "response/truncated": 0.0,
    "response/malformed": 0.02,
    CORRELATION: 1.0,
}


def run(steps=20, **changed):
    """Metrics of a healthy run whose reward rises, but for those that jump at step 11 (before, from then)."""
    rng, rows = np.random.default_rng(0), []
    for step in range(1, steps + 1):
        row = HEALTHY | {"reward/overall": 0.5 + 0.01 * step, "reward/fidelity": 0.6 + 0.01 * step}
        row |= {name.replace("__", "/"): values[step > 10] for name, values in changed.items()}
        rows.append({"step": step, **{name: value * rng.uniform(0.995, 1) for name, value in row.items()}})
    return rows


def test_a_healthy_run_has_no_finding():
    assert diagnose(run()) == []
    assert diagnose([]) == diagnose(run(steps=2)) == []


KINDS = [
    ("no learning signal", {"groups__collapsed": (0.5, 1.0)}, "rl.filter.enabled"),
    ("entropy collapses", {"actor__entropy": (0.5, 0.01)}, "loss.clip_high"),
    ("entropy grows", {"actor__entropy": (0.5, 3.0)}, "rl.learning_rate"),
    ("responses grow", {"response_length__mean": (40, 100)}, "loss.overlong"),
    ("responses shrink", {"response_length__mean": (40, 10)}, "loss.aggregation"),
    ("responses are cut", {"response__truncated": (0.0, 0.6)}, "rl.max_response_length"),
    ("responses lose their form", {"response__malformed": (0.02, 0.9)}, "reward.format_weight"),
    ("rollouts and actor disagree", {CORRELATION.replace("/", "__"): (1.0, 0.9)}, "loss.rollout_correction"),
    ("the training reward falls", {"reward__overall": (0.9, 0.1)}, "rl.learning_rate"),
    ("the reward rises over worse observations", {"reward__fidelity": (0.7, 0.3)}, "reward.fidelity_weight"),
]


@pytest.mark.parametrize(("what", "changed", "key"), KINDS)
def test_a_fault_is_named_with_its_step_and_the_key_to_try(what, changed, key):
    found = {finding.what: finding for finding in diagnose(run(**changed))}
    assert list(found) == [what]
    assert key in found[what].keys and 11 <= found[what].since <= 15  # the mean of five steps must follow
    assert f"{what} since step {found[what].since}: " in found[what].line()


def test_every_rule_has_a_kind_of_run():
    assert {rule.what for rule in RULES} <= {what for what, *_ in KINDS}


def test_a_fault_that_passed_is_not_told():
    rows = run()
    for row in rows[:10]:
        row["response/truncated"] = 0.9
    assert diagnose(rows) == []


def test_a_rising_reward_over_a_falling_val_split_is_told():
    records = [
        {"step": step, "balanced_accuracy": value, "reward": reward}
        for step, value, reward in ((0, 0.6, None), (8, 0.7, 0.5), (16, 0.65, 0.6), (24, 0.6, 0.7))
    ]
    (found,) = diagnose(run(), records)
    assert found.since == 8 and "rl.checkpoint=best" in found.keys
    assert "0.700 at step 8, 0.600 now, while the training reward rose from 0.500 to 0.700" in found.evidence
    assert diagnose(run(), records[:2]) == []

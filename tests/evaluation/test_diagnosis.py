"""Metrics of runs that went wrong, each in its own way, and what is said of them.

recorded_runs.json has those of four real runs of the demo, with their commands: its RL as it is, with rollouts that see
pixels which are not normalised, with a hundred times the learning rate, and from a model that has not learnt the form.
"""

import json
from pathlib import Path

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
    ("responses are malformed", {"response__malformed": (0.02, 0.9)}, "reward.format_weight"),
    ("rollouts and actor disagree", {CORRELATION.replace("/", "__"): (1.0, 0.9)}, "loss.rollout_correction"),
    ("the training reward falls", {"reward__overall": (0.9, 0.1)}, "rl.learning_rate"),
    ("the reward rises over worse observations", {"reward__fidelity": (0.7, 0.3)}, "reward.fidelity_weight"),
]


@pytest.mark.parametrize(("what", "changed", "key"), KINDS)
def test_a_fault_is_named_with_its_step_and_the_key_to_try(what, changed, key):
    found = {finding.what: finding for finding in diagnose(run(**changed))}
    assert list(found) == [what]
    assert key in found[what].keys and 11 <= found[what].since <= 15  # a mean of five steps may have to follow
    assert f"{what} since step {found[what].since}: " in found[what].line()


RECORDED = json.loads(Path(__file__).with_name("recorded_runs.json").read_text())


def said_of(name):
    """(what, since) of each finding about a recorded run."""
    return [(finding.what, finding.since) for finding in diagnose(RECORDED[name]["steps"])]


def test_a_demo_that_learns_has_no_finding():
    assert said_of("healthy") == []


def test_rollouts_that_see_other_pixels_than_the_actor_are_noticed_though_the_reward_is_as_ever():
    assert said_of("other_pixels") == [("rollouts and actor disagree", 1)]
    (found,) = diagnose(RECORDED["other_pixels"]["steps"])
    assert found.keys.startswith("whether both see the same frames")


def test_a_learning_rate_that_is_too_high_is_named_before_what_follows_from_it():
    """The third step is broken: what is compared with must not be its ruins, and no fault is dated later than it is."""
    said = said_of("learning_rate_too_high")
    assert said == [
        ("entropy grows", 3),
        ("responses are malformed", 3),
        ("responses are cut", 3),
        ("the training reward falls", 3),
        ("responses grow", 4),
        ("no learning signal", 4),
    ]
    assert diagnose(RECORDED["learning_rate_too_high"]["steps"])[0].keys.startswith("rl.learning_rate lower")


def test_a_model_that_earns_nothing_has_no_signal_from_the_first_step():
    assert said_of("no_signal") == [("responses are malformed", 1), ("responses are cut", 1), ("no learning signal", 1)]


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

"""What is wrong with an RL run, by the metrics that it logged: since which step, and the recipe keys to try."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.held_out import best_of, decline

Steps = Sequence[Mapping[str, Any]]
WINDOW = 5  # steps of a moving mean
BEGIN = 2  # steps that later ones are compared with: a learning rate that is too high breaks a policy within three
LASTS = 3  # steps at the end of a run that a fault must hold for


@dataclass(frozen=True)
class Finding:
    """A fault that holds until the end of what is logged.

    Attributes:
        what: the fault in a few words.
        since: the first step of the time that it holds for.
        evidence: the numbers.
        keys: of the recipe, to try.
    """

    what: str
    since: int
    evidence: str
    keys: str

    def line(self) -> str:
        return f"{self.what} since step {self.since}: {self.evidence}; try {self.keys}"


@dataclass(frozen=True)
class Rule:
    """A fault in one metric: `holds(moving mean, mean at the beginning)`.

    Attributes:
        form: of the evidence: `{now}`, `{first}`.
    """

    what: str
    metric: str
    holds: Callable[[float, float], bool]
    form: str
    keys: str


RULES = (  # causes before what follows from them, for faults of the same step
    Rule(
        "rollouts and actor disagree",
        "training/rollout_actor_probs_pearson_corr",
        lambda now, first: now < 0.99,
        "correlation {now:.4f} of their probabilities",
        "whether both see the same frames (docs/media.md), or loss.rollout_correction='{level: token, threshold: 2.0}'",
    ),
    Rule(
        "entropy collapses",
        "actor/entropy",
        lambda now, first: now < 0.2 * first,
        "{now:.3g} nats a token, {first:.3g} at first",
        "loss.clip_high higher (loss=dapo), rl.entropy_coef above 0, rl.learning_rate lower",
    ),
    Rule(
        "entropy grows",
        "actor/entropy",
        lambda now, first: now > max(2 * first, first + 0.5),
        "{now:.3g} nats a token, {first:.3g} at first",
        "rl.learning_rate lower, rl.entropy_coef=0, rl.kl_coef above 0",
    ),
    Rule(
        "responses are malformed",
        "response/malformed",
        lambda now, first: now > max(0.2, min(1.5 * first, 0.5)),
        "{now:.0%} malformed, {first:.0%} at first",
        "reward.format_weight higher, rl.learning_rate lower, a later rl.start_epoch",
    ),
    Rule(
        "responses are cut",
        "response/truncated",
        lambda now, first: now > 0.1,
        "{now:.0%} at rl.max_response_length",
        "rl.max_response_length higher, loss.overlong='{share: 0.2, penalty: 1.0}'",
    ),
    Rule(
        "responses grow",
        "response_length/mean",
        lambda now, first: now > 1.5 * first,
        "{now:.0f} tokens, {first:.0f} at first",
        "loss.overlong='{share: 0.2, penalty: 1.0}', loss.aggregation=constant",
    ),
    Rule(
        "responses shrink",
        "response_length/mean",
        lambda now, first: now < 0.6 * first,
        "{now:.0f} tokens, {first:.0f} at first",
        "loss.aggregation=token_mean, a reward of the observation (reward.fidelity_weight)",
    ),
    Rule(
        "no learning signal",
        "groups/collapsed",
        lambda now, first: now >= 0.8,
        "{now:.0%} of the groups earn one reward",
        "rl.filter.enabled=true, rl.group_size higher, another rl.start_epoch, or easier (harder) questions",
    ),
)


def diagnose(steps: Steps, held_out: Steps = (), metric: str = "balanced_accuracy") -> list[Finding]:
    """All faults that hold at the end of a run, the oldest first.

    Args:
        steps: metrics per step, `step` among them (rl/metrics.jsonl).
        held_out: records of rl/held_out.jsonl.
        metric: of the val split.

    Example:
        >>> steps = [{"step": step, "response/truncated": 0.4} for step in range(1, 9)]
        >>> print(diagnose(steps)[0].line())
        responses are cut since step 1: 40% at rl.max_response_length; try rl.max_response_length higher, \
loss.overlong='{share: 0.2, penalty: 1.0}'
    """
    found = [finding for rule in RULES if (finding := _by_rule(rule, steps))]
    found += [finding for finding in (_falls(steps), _hacked(steps), _declines(held_out, metric)) if finding]
    return sorted(found, key=lambda finding: finding.since)


def _series(steps: Steps, metric: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Steps that logged a metric, its values, and its moving mean over those up to each."""
    held = [(step["step"], float(step[metric])) for step in steps if step.get(metric) is not None]
    values = np.array([value for _, value in held])
    means = np.array([values[max(0, end - WINDOW) : end].mean() for end in range(1, len(values) + 1)])
    return [step for step, _ in held], values, means


def _since(numbers: Sequence[int], flags: Sequence[bool], alone: Sequence[bool]) -> int | None:
    """The step since when a fault holds, if its moving mean shows it in the last LASTS steps or more.

    Args:
        flags: whether it holds by the moving mean up to each step, which is late by some of WINDOW's steps.
        alone: by the values of each step alone.
    """
    length = next((back for back, flag in enumerate(reversed(flags)) if not flag), len(flags))
    if length < LASTS:
        return None
    start = len(flags) - length
    return numbers[next((i for i in range(max(0, start - WINDOW + 1), start) if alone[i]), start)]


def _by_rule(rule: Rule, steps: Steps) -> Finding | None:
    numbers, values, means = _series(steps, rule.metric)
    if not numbers:
        return None
    first, now = float(values[:BEGIN].mean()), float(means[-1])
    flags, alone = ([rule.holds(float(value), first) for value in series] for series in (means, values))
    since = _since(numbers, flags, alone)
    return None if since is None else Finding(rule.what, since, rule.form.format(now=now, first=first), rule.keys)


def _falls(steps: Steps) -> Finding | None:
    """The training reward lost three tenths of its best."""
    numbers, values, means = _series(steps, "reward/overall")
    if len(numbers) < WINDOW:
        return None
    best = int(means[BEGIN - 1 :].argmax()) + BEGIN - 1
    flags, alone = ([i > best and value < 0.7 * means[best] for i, value in enumerate(s)] for s in (means, values))
    since = _since(numbers, flags, alone)
    evidence = f"{means[-1]:.3f}, {means[best]:.3f} until step {numbers[best]}"
    keys = "rl.learning_rate lower, rl.kl_coef above 0, loss.clip_high lower"
    return None if since is None else Finding("the training reward falls", since, evidence, keys)


def _hacked(steps: Steps) -> Finding | None:
    """The reward rises while observations get worse."""
    names = ("reward/overall", "reward/fidelity")
    both = [step for step in steps if all(step.get(name) is not None for name in names)]
    (numbers, _, rewards), (_, _, fidelity) = (_series(both, name) for name in names)
    if len(numbers) < 2 * WINDOW:
        return None
    start = WINDOW - 1
    flags = [
        i > start and rewards[i] > 1.05 * rewards[start] and fidelity[i] < 0.95 * fidelity[start]
        for i in range(len(numbers))
    ]
    since = _since(numbers, flags, flags)
    evidence = f"reward {rewards[start]:.3f} → {rewards[-1]:.3f}, fidelity {fidelity[start]:.3f} → {fidelity[-1]:.3f}"
    keys = "reward.fidelity_weight higher"
    return None if since is None else Finding("the reward rises over worse observations", since, evidence, keys)


def _declines(held_out: Steps, metric: str) -> Finding | None:
    """The val split has had no new best for two evaluations or more."""
    if not held_out or (said := decline(held_out, metric, patience=2)) is None:
        return None
    keys = "rl.checkpoint=best, rl.held_out.then=end, rl.learning_rate lower, rl.kl_coef above 0"
    return Finding("the val split gets worse", best_of(held_out, metric)["step"], said, keys)

"""What the numbers of a set say, in plain sentences."""

from collections.abc import Sequence
from itertools import pairwise

from evaluation.benchmarks.benchmark import difference
from evaluation.benchmarks.samples import SAMPLES
from evaluation.measures.bootstrap import Estimate, estimate
from evaluation.report.load import SetInputs
from evaluation.report.official import best_baseline, headline, official
from evaluation.runs import Model

ADDED = {"sft": "SFT", "rl": "RL"}  # the stage that such a model had more than the one before it


def set_verdict(chosen: SetInputs) -> list[str]:
    """About a set: its balanced accuracy where Yes/No questions make it, else the main number of its benchmark."""
    strict, binary = chosen.benchmark is SAMPLES, chosen.models[0].scores["n_binary"] > 0
    by_headline = [model for model in chosen.models if not (strict and binary and model.stage)]
    sentences = _by_headline(chosen, by_headline)
    if strict and chosen.trained:
        said = verdict(chosen.trained, chosen.gains if binary else [])
        sentences = [*said, *sentences] if binary else [*sentences, *said]
    if missing := chosen.models[0].scores["official_missing"]:
        sentences.append(f"There is no official score: {missing}.")
    return [*unread(chosen.models[-1:]), *sentences, *unread(chosen.models[:-1])]


def unread(models: Sequence[Model]) -> list[str]:
    """In words, of each model most of whose responses are malformed: how many, and how many were cut.

    Example:
        >>> unread([Model("SFT", scores={"n": 27, "malformed": 27, "truncated": 27})])
        ['All 27 responses of SFT are malformed; all 27 were cut at the token limit (eval.max_tokens).']
    """
    said = []
    for model in models:
        n, malformed, cut = (model.scores[key] for key in ("n", "malformed", "truncated"))
        if 2 * malformed <= n:
            continue
        most = f"All {n} responses" if malformed == n else f"{malformed} of {n} responses"
        of_them = f"all {n}" if cut == n else str(cut or "none")
        said.append(f"{most} of {model.name} are malformed; {of_them} were cut at the token limit (eval.max_tokens).")
    return said


def verdict(models: Sequence[Model], gains: Sequence[Estimate | None]) -> list[str]:
    """What balanced accuracy says; the first sentence is about the last training stage.

    Args:
        models: of the run, in the order of training.
        gains: change of balanced accuracy from each model to the next one.
    """
    sentences = [
        _change(*pair, "balanced accuracy", [m.scores["balanced_accuracy"] for m in pair], gain)
        for pair, gain in zip(pairwise(models), gains)
    ][::-1]
    last, s = models[-1], models[-1].scores
    if s["balanced_accuracy"] is None:
        return [*sentences, f"{last.name}: balanced accuracy is undefined, since Yes or No is never the right answer."]
    low, high = s["balanced_accuracy_ci"]
    beats = "is above" if low > 0.5 else "is below" if high < 0.5 else "cannot be distinguished from"
    sentences.append(
        f"{last.name}'s balanced accuracy of {s['balanced_accuracy']:.3f} [{low:.3f}, {high:.3f}] {beats} the 0.500 of "
        f"a constant answer; its Yes/No accuracy is {s['binary_accuracy']:.3f}, that of always No "
        f"{s['always_no_accuracy']:.3f}."
    )
    if s["observation_fidelity"] is not None:
        sentences.append(
            f"Its observation states what the camera really did in {100 * s['observation_fidelity']:.0f} % of the "
            f"responses (the best constant observation: {100 * s['constant_observation_fidelity']:.0f} %)."
        )
    if s["pair_accuracy"] is not None:
        low, high = s["pair_accuracy_ci"]
        sentences.append(
            f"Of {s['n_pairs']} pairs of a question and its twin about the turned clip, whose answers differ, both are "
            f"right in {100 * s['pair_accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]; a fixed answer has none."
        )
    return sentences


def _by_headline(chosen: SetInputs, models: Sequence[Model]) -> list[str]:
    """Changes from stage to stage, and of other models to the first; then the last model beside a trivial baseline."""
    main = headline(chosen)
    if main is None or not models:
        return []
    part, metric = main
    compared = chosen.official or (chosen.measured if chosen.benchmark is SAMPLES else None)
    sentences = []
    for before, after in _pairs(chosen):
        if after not in models or compared is None:
            continue
        a, b = (compared.parts[chosen.models.index(model)][part] for model in (before, after))
        gain = estimate(difference(a, b).values[metric.name]) if metric.name in a.values else None
        values = [float(each.values[metric.name][0]) for each in (a, b)] if gain else []
        sentences.append(_change(before, after, metric.name, values, gain))
    best = best_baseline(chosen, part, metric.name)
    value = official(models[-1], part, metric.name)
    if value is not None:
        low, high = (f"{bound:.3f}" if bound is not None else "–" for bound in (value.low, value.high))
        beside = f"; the best trivial baseline ({best[0]}) has {best[1].value:.3f}" if best else ""
        sentences.append(f"{models[-1].name}: {metric.name} {value.value:.3f} [{low}, {high}], {part}{beside}.")
    return sentences


def _pairs(chosen: SetInputs) -> list[tuple[Model, Model]]:
    """Each trained model with the one before it, the last stage first; then every other model with the first."""
    others = [model for model in chosen.models[1:] if not model.stage]
    return [*list(pairwise(chosen.trained))[::-1], *((chosen.models[0], model) for model in others)]


def _change(before: Model, after: Model, metric: str, values: Sequence[float | None], gain: Estimate | None) -> str:
    better, worse, same = "is better", "is worse", "does not measurably differ"
    what = f"{after.name}, compared with {before.name},"
    if added := ADDED.get(after.stage):
        what, better, worse, same = added, "helped", "made it worse", "did not measurably help"
    if gain is None or gain.low is None or gain.high is None:
        return f"Whether {what} {better} cannot be said: {metric} is undefined."
    if gain.low == gain.high == 0:  # nothing varies from clip to clip: an interval would sound certain
        return f"{what} {same}: {metric} {values[0]:.3f} before and after, on every clip."
    interval = f"95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    numbers = f"{metric} {values[0]:.3f} → {values[1]:.3f} ({gain.value:+.3f}, {interval})"
    if gain.low > 0:
        return f"{what} {better}: {numbers}."
    return f"{what} {worse}: {numbers}." if gain.high < 0 else f"{what} {same}: {numbers}; the interval holds zero."

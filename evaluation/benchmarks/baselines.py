"""Trivial baselines that every table shows."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from string import ascii_uppercase

from data_tools.sample import BY_OPTION, Sample
from evaluation.benchmarks.benchmark import Baselines
from evaluation.predictions import answers


def option_baselines(samples: Sequence[Sample]) -> Baselines:
    """Each option as a constant answer, and the majority answer per type.

    An option is named by its text where all samples have the same options, else by its letter.

    The majority is that of the test labels themselves within `extras["type"]`: what a model could gain by knowing the
    label prior. Yes/No constants also carry a constant score, whose average precision is the prevalence.
    """
    asked = [sample for sample in samples if sample.task in BY_OPTION]
    if not asked:
        return {}
    same = len({frozenset(sample.options) for sample in asked}) == 1
    constants = sorted(asked[0].options) if same else ascii_uppercase[: max(len(s.options) for s in asked)]
    found: Baselines = {}
    for constant in constants:
        said = answers({sample.id: constant for sample in asked})
        if constant.casefold() in ("yes", "no"):
            for prediction in said.values():
                prediction.p_yes = float(constant.casefold() == "yes")
        found[f"always {constant}"] = said
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in asked:
        by_type[_type(sample)][sample.answer_text if same else sample.answer] += 1
    if len(by_type) > 1 or not same:
        # Ties go to the first in alphabetical order.
        majority = {kind: min(counts, key=lambda a: (-counts[a], a)) for kind, counts in by_type.items()}
        found["majority per type"] = answers({sample.id: majority[_type(sample)] for sample in asked})
    return found


def with_texts(samples: Sequence[Sample]) -> Baselines:
    """`option_baselines`, each with the most frequent right answer for the questions without options."""
    rest = [sample for sample in samples if sample.task not in BY_OPTION]
    common = Counter(sample.answer for sample in rest)
    text = answers({sample.id: min(common, key=lambda a: (-common[a], a)) for sample in rest})
    return {name: said | text for name, said in (option_baselines(samples) or {"most frequent answer": {}}).items()}


def _type(sample: Sample) -> str:
    """Type of the question; the benchmarks' names of the key differ."""
    return str(
        next((sample.extras[key] for key in ("type", "primitive", "skill") if key in sample.extras), sample.task)
    )

"""How hard questions are to a model: the share of its sampled answers that are right, and which are kept for RL.

A group whose answers are all right or all wrong teaches nothing (advantage 0). Questions that a model always or never
answers cost their rollouts for that, at every step; they can be left out before.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, comb, floor, sqrt
from pathlib import Path
from typing import Any, Literal

from data_tools.files import whole_file, write_text
from data_tools.sample import Sample
from data_tools.templates import template
from evaluation.grading import Schema, grade
from evaluation.predictions import Prediction

Verdict = Literal["kept", "too easy", "too hard", "quarantined"]
VERDICTS: tuple[Verdict, ...] = ("kept", "too easy", "too hard", "quarantined")
Order = Literal["as_given", "easy_first", "hard_first"]


@dataclass(frozen=True)
class Rated:
    """One question.

    Attributes:
        right, sampled: of its answers.
        verdict: what becomes of it.
        fault: why its pass rate is unknown; None where it is known.
    """

    id: str
    task: str
    right: int
    sampled: int
    verdict: Verdict
    fault: str | None = None

    @property
    def pass_rate(self) -> float:
        return self.right / self.sampled if self.sampled else 0.0


def rated(sample: Sample, prediction: Prediction | None, schema: Schema, low: float, high: float) -> Rated:
    """A question by its sampled answers: kept where low <= pass rate <= high.

    An answer that is right to a degree counts as right from 0.5 on, as everywhere (`evaluation.grading.RIGHT`).

    Example:
        >>> sample = Sample(id="1", video="a.mp4", question="Does it pan?", options=["No", "Yes"], answer="B",
        ...                 task="binary", source="mine", split="rl")
        >>> said = Prediction(id="1", response="", samples=["Yes", "No", "Yes", "perhaps"])
        >>> rated(sample, said, "none", 0.2, 0.8).right, rated(sample, said, "none", 0.6, 0.8).verdict
        (2, 'too hard')
    """
    fault = "no answer" if prediction is None else prediction.error
    graded = []
    if prediction is not None and fault is None:
        said = prediction.samples or []
        graded = [grade(sample, prediction.model_copy(update={"response": text}), schema) for text in said]
        fault = next((j.reason for j in graded if j.outcome == "unjudged"), None if graded else "no answer")
    if fault is not None:
        return Rated(sample.id, sample.task, 0, 0, "quarantined", fault)
    right = sum(j.right for j in graded)
    share = right / len(graded)
    verdict: Verdict = "too hard" if share < low else "too easy" if share > high else "kept"
    return Rated(sample.id, sample.task, right, len(graded), verdict)


def in_order(found: Iterable[Rated], order: Order) -> list[str]:
    """Ids of the questions kept; of equal pass rates as they were given."""
    kept = [each for each in found if each.verdict == "kept"]
    if order != "as_given":
        kept.sort(key=lambda each: each.pass_rate, reverse=order == "easy_first")
    return [each.id for each in kept]


def counts(found: Iterable[Rated]) -> dict[Verdict, int]:
    """Questions by verdict; they add up to all."""
    by = Counter(each.verdict for each in found)
    return {verdict: by[verdict] for verdict in VERDICTS}


def keep_probability(right: int, sampled: int, group: int, low: float, high: float) -> float:
    """Chance that the online filter keeps a group of so many answers to this question: low < its share right < high.

    Where as many answers were sampled as a group has, or more, it is the share of all groups that can be drawn of them,
    which is unbiased. Of fewer, the pass rate is taken for the chance of a right answer: a question that was always or
    never right then counts as never kept, so the mean over questions is rather too low.

    Example:
        >>> keep_probability(1, 2, group=2, low=0.01, high=0.99), keep_probability(2, 2, group=2, low=0.01, high=0.99)
        (1.0, 0.0)
        >>> keep_probability(1, 2, group=4, low=0.01, high=0.99)  # 1 - 2 / 2^4
        0.875
    """
    wanted = range(floor(low * group + 1e-9) + 1, ceil(high * group - 1e-9))
    if sampled >= group:
        ways = sum(comb(right, n) * comb(sampled - right, group - n) for n in wanted if 0 <= n <= group)
        return ways / comb(sampled, group)
    p = right / sampled
    return sum(comb(group, n) * p**n * (1 - p) ** (group - n) for n in wanted if 0 <= n <= group)


def keep_rate(found: Iterable[Rated], group: int, low: float, high: float) -> tuple[float, float] | None:
    """Part of the groups that the online filter is expected to keep, with its standard error; None of no question."""
    each = [keep_probability(one.right, one.sampled, group, low, high) for one in found if one.sampled]
    if not each:
        return None
    mean = sum(each) / len(each)
    return mean, sqrt(sum((value - mean) ** 2 for value in each) / len(each) / len(each))


def histogram(found: Iterable[Rated], sampled: int) -> list[int]:
    """Questions with 0, 1, ... all answers right."""
    by = Counter(each.right for each in found if each.sampled)
    return [by[right] for right in range(sampled + 1)]


# ---------------------------------------------------------------- files


def write_rates(path: Path, found: Iterable[Rated]) -> None:
    with whole_file(path) as out:
        for each in found:
            out.write(json.dumps(asdict(each) | {"pass_rate": each.pass_rate}) + "\n")


def read_rates(path: Path) -> list[Rated]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Rated(**{key: value for key, value in line.items() if key != "pass_rate"}) for line in lines]


def summary(found: Sequence[Rated], sampled: int) -> dict[str, Any]:
    """Counts that add up, by task too, and the histogram."""
    tasks = sorted({each.task for each in found})
    return {
        "questions": len(found),
        "counts": counts(found),
        "tasks": {task: counts(each for each in found if each.task == task) for task in tasks},
        "histogram": histogram(found, sampled),
    }


def write_page(path: Path, told: Mapping[str, Any]) -> None:
    """The summary as a page that opens without a network."""
    write_text(path, template(Path(__file__).with_name("difficulty.html.j2")).render(told))

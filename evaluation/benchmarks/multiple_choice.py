"""Benchmarks of questions with options, scored by rules: the option named in the answer, by letter or text.

Official scorers differ in how they fish an option out of free text: the first letter anywhere, a judge, a random one.
Each benchmark's `official` reader follows its publisher's rules as far as they need neither judge nor dice; read
strictly, an answer that names no single option is wrong in all of them.
"""

from collections.abc import Sequence
from typing import Any

from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.measures import by_accuracy
from evaluation.grading import Reader
from evaluation.table import Metric

NO_GUESS = "An answer that names no single option is wrong (no judge, no guess)"


def plain_choice(
    name: str,
    title: str,
    read: Any,
    keys: Sequence[str],
    macro: str | None = None,
    note: str = "",
    official: Reader | None = None,
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        sources=(name,),
        read=read,
        metrics=(Metric("accuracy", "as the line says"),),
        measure=by_accuracy(keys, macro),
        baselines=option_baselines,
        note=". ".join(filter(None, (NO_GUESS, note))),
        official=official,
    )

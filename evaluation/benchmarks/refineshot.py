"""RefineShot: ShotBench's questions, with consistency of thought and answer."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

import numpy as np

from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import MICRO, Benchmark, Part
from evaluation.benchmarks.judged import ASKED, ask_each
from evaluation.benchmarks.measures import grouped, values_of
from evaluation.benchmarks.multiple_choice import NO_GUESS
from evaluation.benchmarks.shotbench import read_officially, shotbench_reader
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.table import Metric
from rewards.judges.protocol import UNJUDGED, Judge


def thought_choice(j: Graded) -> str | None:
    """Text of the option that the thought concludes with, "Therefore, the correct answer is B."; None if with none."""
    options, letters = j.sample.options, _CONCLUSION.findall(j.parsed.think or "")
    index = ascii_uppercase.index(letters[-1]) if letters else len(options)
    return options[index] if index < len(options) else None


_CONCLUSION = re.compile(r"""(?i:answer is:?\s*["'*(\[]*(?:option\s+)?)([A-Z])\b""")


def measure_refineshot(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Accuracy; the same with answers that contradict their thought, or do not adhere to the form, counted wrong; and
    both rates by themselves.
    """
    judged = any(ASKED in j.marks for j in graded)
    how = "judge" if judged else "rules"
    if judged:
        agrees = np.array([j.marks.get("consistent", 1.0) for j in graded])
    else:  # as officially: a thought, or an answer, without an option is consistent
        agrees = np.array([j.chosen is None or thought_choice(j) in (None, j.chosen) for j in graded], float)
    adheres = np.array([_adheres(j) for j in graded], float)
    columns = {
        "accuracy": values_of(graded),
        f"consistent accuracy ({how})": values_of(graded) * agrees,
        f"consistency ({how})": agrees,
        "adherent accuracy (rules)": values_of(graded) * adheres,
        "adherence (rules)": adheres,
    }
    return grouped(columns, graded, resamples, ["category"])


def _adheres(j: Graded) -> bool:
    """One thought, one answer, and the thought concludes with the answer, as RefineShot's prompt asks."""
    once = all(j.response.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and j.chosen is not None and thought_choice(j) == j.chosen


async def ask_refineshot(graded: Sequence[Graded], judge: Judge) -> list[Graded]:
    """Whether the thought leads to the answer."""

    async def one(j: Graded) -> dict[str, float] | None:
        if not j.parsed.think:
            return {"consistent": 1.0}
        verdict = await judge.consistent(j.parsed.think, j.answer, vars(j.sample))
        return None if verdict is UNJUDGED else {"consistent": float(verdict)}

    return await ask_each(graded, one)


REFINESHOT = Benchmark(
    name="refineshot",
    title="RefineShot",
    sources=("refineshot",),
    read=shotbench_reader("refineshot"),
    metrics=tuple(
        Metric(name, MICRO)
        for name in (
            "accuracy",
            "consistent accuracy (rules)",
            "consistent accuracy (judge)",
            "consistency (rules)",
            "consistency (judge)",
            "adherent accuracy (rules)",
            "adherence (rules)",
        )
    ),
    measure=measure_refineshot,
    baselines=option_baselines,
    ask=ask_refineshot,
    official=read_officially,
    note=f"{NO_GUESS}. Consistency and adherence are officially Qwen3-4B's verdicts; here by rules, or by our judge, "
    "as named: the thought's 'the correct answer is X' against the answer; a thought without it contradicts nothing. "
    "Adherence is one thought and one answer that agree; what the four steps say is not checked",
)

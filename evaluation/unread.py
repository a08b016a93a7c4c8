"""Answers that name no option: are the responses read by the right schema?"""

from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.sample import BY_OPTION
from evaluation.benchmarks.benchmark import Benchmark
from evaluation.grading import PLAIN, Graded, Reader, grade
from rewards.response import SCHEMAS

MOST = 0.5  # of the answers; more that name no option are a sign of another schema


def unread(benchmark: Benchmark, graded: Sequence[Graded], settings: Mapping[str, Any]) -> str | None:
    """What to say where most answers name no option: how many, and how more could be read; None where most name one.

    Args:
        settings: `reader` and `schema` by which `graded` were read.
    """
    asked = [j for j in graded if j.sample.task in BY_OPTION and j.outcome not in ("failed", "missing")]
    lost = [j for j in asked if j.chosen is None]
    if len(lost) <= MOST * len(asked):
        return None
    official = settings["reader"] == "official"
    said = f"{len(lost)} of {len(asked)} answers name no option by "
    said += "reader=official" if official else f"schema={settings['schema']}"
    ways: dict[str, tuple[str, Reader | None]] = {"reader=strict" if official else f"schema={PLAIN}": (PLAIN, None)}
    ways |= {f"schema={schema}": (schema, None) for schema in SCHEMAS}
    if benchmark.official:
        ways["reader=official"] = (PLAIN, benchmark.official)
    found = {
        way: sum(grade(j.sample, j.prediction, schema, read).chosen is not None for j in asked)
        for way, (schema, read) in ways.items()
    }
    best = max(found, key=lambda way: found[way])
    if found[best] > max(MOST * len(asked), len(asked) - len(lost)):
        return f"{said}; {best} would read {found[best]}"
    return f"{said}, nor by any other schema. The first: {lost[0].sample.id!r}, {lost[0].response[:80]!r}"

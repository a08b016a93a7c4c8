"""Video-MME: multiple choice by duration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.sample import Sample
from evaluation.benchmarks.labels import LabelError, choice_sample, need, of_kind, read_rows
from evaluation.benchmarks.multiple_choice import plain_choice
from evaluation.benchmarks.official import answered, first_letter

DURATIONS = ("short", "medium", "long")


def read_videomme(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """Video-MME's nested template or the flat rows of the hub; ids are question_id.

    The hub's rows (lmms-lab/Video-MME, videomme/test-*.parquet) name the videos, `<videoID>.mp4` in data/ of its
    archives; the template does not.

    Args:
        only: durations.
    """
    if unknown := set(only or ()) - set(DURATIONS):
        raise LabelError(f"only={','.join(sorted(unknown))}: videos are {', '.join(DURATIONS)}")
    rows: list[dict[str, Any]] = []
    for row in read_rows(path):
        if only and row.get("duration") not in only:
            continue
        nested = row.get("questions")
        asked = nested if isinstance(nested, list) else [row]
        rows += [{**row, **of_kind(question, dict, f"{path}: questions")} for question in asked]
    return [_question(f"{path}: record {index}", row) for index, row in enumerate(rows)]


def _question(where: str, row: dict[str, Any]) -> Sample:
    return choice_sample(
        where,
        need(row, "options", where, list),
        need(row, "answer", where),
        id=str(need(row, "question_id", where)),
        video=f"{row['videoID']}.mp4" if row.get("videoID") else str(need(row, "video_id", where)),
        question=need(row, "question", where),
        task="choice",
        source="videomme",
        extras={key: row[key] for key in ("duration", "domain", "sub_category", "task_type") if key in row}
        | {"type": row.get("task_type", "")},
    )


def read_officially(response: str, sample: Sample) -> str:
    """As eval_your_results.py: the first capital of A to D."""
    leads = ("The best option isThe correct option is", "Best answer:Best option:", "Answer:", "Option:")
    return first_letter(answered(response), "ABCD", (*leads, "The correct answer", "The correct option"))


VIDEOMME = plain_choice(
    "videomme",
    "Video-MME",
    read_videomme,
    ["duration", "domain", "sub_category", "task_type"],
    note="Official: over questions; eval_your_results.py reads the first of A to D anywhere in an answer. With and "
    "without subtitles are two results",
    official=read_officially,
)

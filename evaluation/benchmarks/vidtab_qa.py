"""VidTAB-QA: multiple choice."""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

from data_tools.sample import Sample
from evaluation.benchmarks.labels import from_source, no_parts
from evaluation.benchmarks.multiple_choice import plain_choice
from evaluation.benchmarks.official import first_answer


def read_vidtab(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """VideoChat-R1's Quality_Access: the options are part of the instruction."""
    no_parts(only)
    return from_source("vidtab_qa", path)


def read_officially(response: str, sample: Sample) -> str:
    """As evaluate_cls_quality_c8.py: the first <answer> must be the text of an option."""
    inner = (first_answer(response) or "").lower()
    texts = [option.lower() for option in sample.options]
    return ascii_uppercase[texts.index(inner)] if inner in texts else ""


VIDTAB = plain_choice(
    "vidtab_qa",
    "VidTAB-QA, Quality_Access",
    read_vidtab,
    [],
    note="The only VidTAB task released as QA. official: VideoChat-R1's script, an option's text in <answer>",
    official=read_officially,
)

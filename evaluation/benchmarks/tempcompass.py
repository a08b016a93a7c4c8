"""TempCompass: multiple choice, yes/no, caption matching."""

import re
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from data_tools.sample import Sample
from evaluation.benchmarks.baselines import option_baselines
from evaluation.benchmarks.benchmark import Benchmark, Part
from evaluation.benchmarks.labels import LabelError, choice_sample, need, of_kind, read_json
from evaluation.benchmarks.measures import masks, means, values_of
from evaluation.benchmarks.multiple_choice import NO_GUESS
from evaluation.benchmarks.official import answered
from evaluation.grading import Graded
from evaluation.measures.bootstrap import Resamples
from evaluation.table import Metric

TEMPCOMPASS_TASKS = ("multi-choice", "yes_no", "caption_matching")


def read_tempcompass(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The folder `questions`; ids are `<task>-<video>-<aspect>-<index>`."""
    wanted = tuple(only or TEMPCOMPASS_TASKS)
    absent = [f"{task}.json" for task in wanted if not (path / f"{task}.json").is_file()]
    if absent:
        raise LabelError(f"{path}: {', '.join(absent)} missing; complete the folder, or name the tasks with only=...")
    samples = []
    for task in wanted:
        file = path / f"{task}.json"
        for video, aspects in of_kind(read_json(file), dict, str(file)).items():
            for aspect, questions in of_kind(aspects, dict, f"{file}: {video}").items():
                for index, row in enumerate(of_kind(questions, list, f"{file}: {video}: {aspect}")):
                    id = f"{task}-{video}-{aspect}-{index}"
                    samples.append(_tempcompass(f"{file}: {id}", id, task, video, aspect, row))
    return samples


def _tempcompass(where: str, id: str, task: str, video: str, aspect: str, row: dict[str, Any]) -> Sample:
    question, right = need(row, "question", where, str), need(row, "answer", where)
    lines: list[str] = []
    if task == "yes_no":
        options = ["no", "yes"]
    else:  # the options are part of the question, one per line
        head, *lines = [line for line in question.split("\n") if line.strip()] or [""]
        options = lines
        if task == "caption_matching":
            options = [line.partition(":")[2].strip() for line in lines]
            right = str(right).partition(":")[2].strip() or right
    return choice_sample(
        where,
        options,
        right,
        id=id,
        video=f"{video}.mp4",
        question=question if task == "yes_no" else head,
        task="binary" if task == "yes_no" else "choice",
        source="tempcompass",
        extras={"task": task, "aspect": aspect, "type": f"{task} {aspect}", "lines": lines},
    )


def read_officially(response: str, sample: Sample) -> str:
    """As eval_multi-choice.py, eval_yes_no.py and eval_caption_matching.py with --disable_llm.

    Example:
        >>> extras = {"task": "caption_matching", "lines": ["Option 1: A man runs.", "Option 2: A man falls."]}
        >>> fields = {"id": "1", "video": "a.mp4", "question": "Which?", "source": "tempcompass", "split": "test"}
        >>> options = ["A man runs", "A man falls"]
        >>> sample = Sample(**fields, task="choice", options=options, answer="B", extras=extras)
        >>> said = ("Option 2", "2.", "Option 2: A man falls.", "2) A man falls.", "He falls, so option 2")
        >>> [read_officially(response, sample) for response in said]
        ['B', 'B', 'B', 'B', '']
    """
    text, task = answered(response), sample.extras["task"]
    if task == "yes_no":
        return next((word for word in ("yes", "no") if text.lower().startswith(word)), "")
    if task == "multi-choice":
        return text[:1] if re.fullmatch(r"[A-D]([.)].*)?", text, re.DOTALL) else ""
    named = ""
    behind_bracket = text.split(") ")[1] if ") " in text else None
    for letter, line in zip(ascii_uppercase, sample.extras["lines"]):
        label, _, caption = line.partition(": ")
        short = re.sub("Sentence |Option |Caption ", "", label)
        if text in (line, caption) or caption == behind_bracket or {text, text.replace(".", "")} & {label, short}:
            named = letter
    return named


def measure_tempcompass(graded: Sequence[Graded], resamples: Resamples) -> list[Part]:
    """Official results are those of the tasks apart; each also by aspect."""
    parts = []
    for task, members in masks(graded, "task").items():
        aspects = {f"{task}: {a}": mask & members for a, mask in masks(graded, "aspect").items()}
        groups = {task: members} | {name: mask for name, mask in aspects.items() if mask.any()}
        found = means({"accuracy": values_of(graded)}, groups, resamples)
        parts += [Part(name, groups[name], found[name], overall=name == task) for name in groups]
    return parts


TEMPCOMPASS = Benchmark(
    name="tempcompass",
    title="TempCompass",
    sources=("tempcompass",),
    read=read_tempcompass,
    metrics=(Metric("accuracy", "micro: over the questions of a task"),),
    measure=measure_tempcompass,
    baselines=option_baselines,
    official=read_officially,
    extras=("task", "lines"),
    note=f"{NO_GUESS}. official: the scripts with --disable_llm. The captioning task needs a judge and is left out",
)

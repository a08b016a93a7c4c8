"""Benchmarks of questions with options, scored by rules: the option named in the answer, by letter or text.

Official scorers differ in how they fish an option out of free text (first letter anywhere, a judge, a random one). Here
an answer that names no single option is wrong, in all of them: never a better score, sometimes a lower one.
"""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.sample import Sample
from evaluation.answers import Judgement, answers, parse_answer
from evaluation.benchmarks.base import (
    ASKED,
    MICRO,
    Baselines,
    Benchmark,
    LabelError,
    Measure,
    Part,
    ask_each,
    choice_sample,
    grouped,
    make_sample,
    masks,
    means,
    need,
    no_parts,
    option_baselines,
    read_json,
    read_rows,
    values_of,
    with_texts,
)
from evaluation.bootstrap import Resamples, over_groups
from evaluation.table import Metric
from rewards.judge import UNJUDGED, Judge
from rewards.tasks import number

_NOTE = "An answer that names no single option is wrong (no judge, no guess)"


def by_accuracy(keys: Sequence[str] = (), macro: str | None = None) -> Measure:
    """Accuracy over questions, as unweighted mean over the groups of `macro`, and in each group of `keys`."""

    def measure(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
        return grouped({"accuracy": values_of(judgements)}, judgements, resamples, keys, macro)

    return measure


def _plain(
    name: str, title: str, read: Any, keys: Sequence[str], macro: str | None = None, note: str = ""
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        read=read,
        metrics=(Metric("accuracy", "as the line says"),),
        measure=by_accuracy(keys, macro),
        baselines=option_baselines,
        note=". ".join(filter(None, (_NOTE, note))),
    )


# ---------------------------------------------------------------- ShotBench, RefineShot


def _shot(source: str) -> Any:
    def read(path: Path, only: Sequence[str] | None) -> list[Sample]:
        """The TSV file `test.tsv`, or the same rows in another form; `only`: categories."""
        samples = []
        for number_, row in enumerate(read_rows(path)):
            where = f"{path}: record {number_}"
            options = _literal(need(row, "options", where), dict, f"{where}: options")
            if list(options) != sorted(options):
                raise LabelError(f"{where}: options: letters {list(options)} are not in order")
            media = _literal(need(row, "path", where), list, f"{where}: path")
            category = need(row, "category", where)
            samples.append(
                choice_sample(
                    where,
                    list(options.values()),
                    need(row, "answer", where),
                    id=str(row.get("index") or number_),
                    video=str(media[0]),
                    question=need(row, "question", where),
                    task="choice",
                    source=source,
                    extras={"category": category, "type": category},
                )
            )
        return [sample for sample in samples if not only or sample.extras["category"] in only]

    return read


def _literal(value: Any, kind: type, where: str) -> Any:
    """JSON or a Python literal in a string (both occur in the published file)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError) as error:
                raise LabelError(f"{where}: {value[:80]!r} is neither JSON nor a literal") from error
    if not isinstance(value, kind) or not value:
        raise LabelError(f"{where}: {value!r} is no {kind.__name__} with something in it")
    return value


def thought_choice(j: Judgement) -> str | None:
    """Text of the one option that the thought ends on: named in its last sentence that names any; None otherwise."""
    options = j.sample.options
    for sentence in reversed(re.split(r"(?<=[.;!?])\s+|\n", j.parsed.think or "")):
        found = {
            option for option in options if re.search(rf"\b{re.escape(option.strip())}\b", sentence, re.IGNORECASE)
        }
        # "Zoom in" inside "Slow zoom in": the longer option is the one that is named.
        found = {o for o in found if not any(o.casefold() in p.casefold() and o != p for p in found)}
        if len(found) == 1:
            return found.pop()
        if found:
            return None
    return None


def measure_refineshot(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Accuracy; the same with answers that contradict their thought counted wrong; both rates by themselves."""
    judged = any(ASKED in j.marks for j in judgements)
    how = "judge" if judged else "rules"
    if judged:
        agrees = np.array([j.marks.get("consistent", 1.0) for j in judgements])
    else:  # as officially: a thought, or an answer, without an option is consistent
        agrees = np.array([j.chosen is None or thought_choice(j) in (None, j.chosen) for j in judgements], float)
    columns = {
        "accuracy": values_of(judgements),
        f"consistent accuracy ({how})": values_of(judgements) * agrees,
        f"consistency ({how})": agrees,
        "adherence (rules)": np.array([_adheres(j) for j in judgements], float),
    }
    return grouped(columns, judgements, resamples, ["category"])


def _adheres(j: Judgement) -> bool:
    return any(parse_answer(j.response, schema).ok for schema in ("ota", "think_answer"))


async def ask_refineshot(judgements: Sequence[Judgement], judge: Judge) -> list[Judgement]:
    """Whether the thought leads to the answer."""

    async def one(j: Judgement) -> dict[str, float] | None:
        if not j.parsed.think:
            return {"consistent": 1.0}
        verdict = await judge.consistent(j.parsed.think, j.answer, vars(j.sample))
        return None if verdict is UNJUDGED else {"consistent": float(verdict)}

    return await ask_each(judgements, one)


SHOTBENCH = _plain(
    "shotbench",
    "ShotBench",
    _shot("shotbench"),
    ["category"],
    note="The official scorer asks GPT-4o about unreadable answers and then takes a random option",
)
REFINESHOT = Benchmark(
    name="refineshot",
    title="RefineShot",
    read=_shot("refineshot"),
    metrics=tuple(
        Metric(name, MICRO)
        for name in (
            "accuracy",
            "consistent accuracy (rules)",
            "consistent accuracy (judge)",
            "consistency (rules)",
            "consistency (judge)",
            "adherence (rules)",
        )
    ),
    measure=measure_refineshot,
    baselines=option_baselines,
    ask=ask_refineshot,
    schema="ota",
    note=f"{_NOTE}. Consistency and adherence are officially Qwen3-4B's verdicts on a four-step format; here by rules "
    "(option named in the thought; tags) or by our judge, as named",
)


# ---------------------------------------------------------------- VidTAB-QA


def read_vidtab(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """VideoChat-R1's Quality_Access: the options stand in the instruction."""
    no_parts(only)
    samples = []
    for place, row in enumerate(read_rows(path)):
        where = f"{path}: record {place}"
        instruction = need(row, "instruction", where)
        listed = re.search(r"\[[^\]]*\]", instruction)
        options = _literal(listed[0], list, f"{where}: instruction") if listed else []
        fields = choice_sample(
            where,
            options,
            need(row, "answer", where),
            id=f"{need(row, 'video', where)}",
            video=row["video"],
            question=instruction,
            task="quality",
            source="vidtab_qa",
            extras={"type": "quality"},
        )
        samples.append(fields)
    return samples


VIDTAB = _plain("vidtab_qa", "VidTAB-QA, Quality_Access", read_vidtab, [], note="The only VidTAB task released as QA")


# ---------------------------------------------------------------- MVBench, Video-MME, Perception Test

MVBENCH_TASKS = 20


def read_mvbench(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """A folder of one JSON file per task, or one such file. Ids are `<task>-<place>`, counted from 0."""
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    if only:
        files = [file for file in files if file.stem in only]
    if path.is_dir() and not only and len(files) != MVBENCH_TASKS:
        raise LabelError(
            f"{path}: holds {len(files)} of {MVBENCH_TASKS} task files; the result is the mean over tasks: complete "
            f"the folder, or name the tasks to score with only=..."
        )
    return [
        choice_sample(
            f"{file}: record {place}",
            need(row, "candidates", f"{file}: record {place}"),
            need(row, "answer", f"{file}: record {place}"),
            id=f"{file.stem}-{place}",
            video=need(row, "video", f"{file}: record {place}"),
            question=need(row, "question", f"{file}: record {place}"),
            task="choice",
            source="mvbench",
            extras={"task": file.stem, "type": file.stem},
        )
        for file in files
        for place, row in enumerate(read_rows(file))
    ]


def read_videomme(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """Video-MME's nested template or the flat rows of the hub; ids are question_id."""
    no_parts(only)
    rows: list[dict] = []
    for row in read_rows(path):
        nested = row.get("questions")
        rows += [{**row, **question} for question in nested] if isinstance(nested, list) else [row]
    return [
        choice_sample(
            f"{path}: record {place}",
            list(need(row, "options", f"{path}: record {place}")),
            need(row, "answer", f"{path}: record {place}"),
            id=str(need(row, "question_id", f"{path}: record {place}")),
            video=str(row.get("videoID") or need(row, "video_id", f"{path}: record {place}")),
            question=need(row, "question", f"{path}: record {place}"),
            task="choice",
            source="videomme",
            extras={key: row[key] for key in ("duration", "domain", "sub_category", "task_type") if key in row}
            | {"type": row.get("task_type", "")},
        )
        for place, row in enumerate(rows)
    ]


def read_perception_test(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The official object by video, or the rows of the hub; ids are `<video>-<question>`."""
    no_parts(only)
    if path.suffix == ".json" and isinstance(content := read_json(path), dict):
        rows = []
        for video, value in content.items():
            for question in need(value, "mc_question", f"{path}: {video}"):
                rows.append({**question, "video_name": video, "question_id": question.get("id")})
    else:
        rows = read_rows(path)
    samples = []
    for place, row in enumerate(rows):
        where = f"{path}: record {place}"
        right = need(row, "answer_id", where)
        samples.append(
            choice_sample(
                where,
                list(need(row, "options", where)),
                int(right) if str(right).isdecimal() else right,
                id=f"{need(row, 'video_name', where)}-{need(row, 'question_id', where)}",
                video=row["video_name"],
                question=need(row, "question", where),
                task="choice",
                source="perception_test",
                extras={key: row[key] for key in ("area", "reasoning") if key in row} | {"type": row.get("area", "")},
            )
        )
    return samples


MVBENCH = _plain("mvbench", "MVBench", read_mvbench, ["task"], macro="task", note="Official: mean over tasks")
VIDEOMME = _plain(
    "videomme",
    "Video-MME",
    read_videomme,
    ["duration", "domain", "sub_category", "task_type"],
    note="Official: over questions. With and without subtitles are two results",
)
PERCEPTION_TEST = _plain(
    "perception_test",
    "Perception Test, multiple choice",
    read_perception_test,
    ["area", "reasoning"],
    note="Official: top-1 accuracy over questions",
)


# ---------------------------------------------------------------- TempCompass

TEMPCOMPASS_TASKS = ("multi-choice", "yes_no", "caption_matching")


def read_tempcompass(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The folder `questions`; ids are `<task>-<video>-<aspect>-<place>`."""
    wanted = tuple(only or TEMPCOMPASS_TASKS)
    absent = [f"{task}.json" for task in wanted if not (path / f"{task}.json").is_file()]
    if absent:
        raise LabelError(f"{path}: {', '.join(absent)} missing; complete the folder, or name the tasks with only=...")
    samples = []
    for task in wanted:
        for video, aspects in read_json(path / f"{task}.json").items():
            for aspect, questions in aspects.items():
                for place, row in enumerate(questions):
                    id = f"{task}-{video}-{aspect}-{place}"
                    samples.append(_tempcompass(f"{path / task}.json: {id}", id, task, video, aspect, row))
    return samples


def _tempcompass(where: str, id: str, task: str, video: str, aspect: str, row: dict) -> Sample:
    question, right = need(row, "question", where), need(row, "answer", where)
    if task == "yes_no":
        options = ["no", "yes"]
    else:  # the options stand in the question, each on its line
        head, *options = [line for line in question.split("\n") if line.strip()]
        if task == "caption_matching":
            options = [line.partition(":")[2].strip() for line in options]
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
        extras={"task": task, "aspect": aspect, "type": f"{task} {aspect}"},
    )


def measure_tempcompass(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Official results are those of the tasks apart; each also by aspect."""
    parts = []
    for task, members in masks(judgements, "task").items():
        aspects = {f"{task}: {a}": mask & members for a, mask in masks(judgements, "aspect").items()}
        groups = {task: members} | {name: mask for name, mask in aspects.items() if mask.any()}
        found = means({"accuracy": values_of(judgements)}, groups, resamples)
        parts += [Part(name, groups[name], found[name], overall=name == task) for name in groups]
    return parts


TEMPCOMPASS = Benchmark(
    name="tempcompass",
    title="TempCompass",
    read=read_tempcompass,
    metrics=(Metric("accuracy", "micro: over the questions of a task"),),
    measure=measure_tempcompass,
    baselines=option_baselines,
    note=f"{_NOTE}; as the official script without its judge. The captioning task needs a judge and is left out",
)


# ---------------------------------------------------------------- VSI-Bench

VSI_NUMBERS = ("object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation")
_DIRECTION = "object_rel_direction"


def read_vsibench(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """Rows of the hub; ids are `id`, or the row's number."""
    samples = []
    for place, row in enumerate(read_rows(path)):
        where = f"{path}: record {place}"
        kind = need(row, "question_type", where)
        fields = {
            "id": str(row.get("id", place)),
            "video": f"{need(row, 'dataset', where)}/{need(row, 'scene_name', where)}.mp4",
            "question": need(row, "question", where),
            "source": "vsibench",
            # The three difficulties of direction are one task.
            "extras": {"task": _DIRECTION if kind.startswith(_DIRECTION) else kind, "type": kind},
        }
        right = str(need(row, "ground_truth", where))
        if kind in VSI_NUMBERS:
            samples.append(make_sample(where, answer=right, task="regression", **fields))
        else:
            samples.append(choice_sample(where, list(need(row, "options", where)), right, task="choice", **fields))
    return [sample for sample in samples if not only or sample.extras["task"] in only]


def official_mra(predicted: float, gold: float) -> float:
    """Mean relative accuracy as VSI-Bench's code has it: <= where the paper, and our reward, have <."""
    error = abs(predicted - gold) / abs(gold) if gold else (0.0 if predicted == gold else np.inf)
    return sum(error <= 1 - theta for theta in np.linspace(0.5, 0.95, 10)) / 10


def _official_value(j: Judgement) -> float:
    if j.sample.task != "regression" or not j.answer or j.outcome in ("failed", "missing"):
        return j.value
    predicted = number(j.answer)
    return 0.0 if predicted is None else official_mra(predicted, number(j.sample.answer))


def measure_vsibench(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Mean over tasks (direction is the mean of its three), and per type."""
    columns = {
        "score": np.array([_official_value(j) for j in judgements]),
        "score, MRA with <": values_of(judgements),
    }
    types = masks(judgements, "type")
    found = means(columns, types, resamples)
    tasks: dict[str, list[str]] = {}
    for kind in types:
        tasks.setdefault(_DIRECTION if kind.startswith(_DIRECTION) else kind, []).append(kind)
    over_tasks = {
        name: over_groups([over_groups([found[k][name] for k in kinds]) for kinds in tasks.values()])
        for name in columns
    }
    everything = np.ones(len(judgements), bool)
    over_all = means(columns, {"all": everything}, resamples)["all"]
    return [
        Part(f"mean over {len(tasks)} tasks", everything, over_tasks, overall=True),
        Part("over questions", everything, over_all, overall=True),
        *(Part(kind, types[kind], found[kind]) for kind in types),
    ]


def vsibench_baselines(samples: Sequence[Sample]) -> Baselines:
    """Always each letter, and the majority letter per type, each with the median number per type."""
    numbers = [sample for sample in samples if sample.task == "regression"]
    medians = {
        kind: float(np.median([number(s.answer) for s in numbers if s.extras["type"] == kind]))
        for kind in {sample.extras["type"] for sample in numbers}
    }
    median = answers({sample.id: repr(medians[sample.extras["type"]]) for sample in numbers})
    options = option_baselines(samples) or {"median per type": {}}
    return {f"{name}, median number per type" if numbers else name: said | median for name, said in options.items()}


VSIBENCH = Benchmark(
    name="vsibench",
    title="VSI-Bench",
    read=read_vsibench,
    metrics=(
        Metric("score", "accuracy, or MRA (official code: <=) for numbers; as the line says"),
        Metric("score, MRA with <", "accuracy, or MRA (paper: <) for numbers; as the line says"),
    ),
    measure=measure_vsibench,
    baselines=vsibench_baselines,
    note=f"{_NOTE}. A number must be the whole answer (official: its first word)",
)


# ---------------------------------------------------------------- Video-MMMU, MMVU


def read_videommmu(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """One JSON file `{track: {index: item}}`, or a folder of one file per track; ids are `<track>-<id>`."""
    if path.is_dir():
        tracks = {file.stem.lower(): read_rows(file) for file in sorted([*path.glob("*.json"), *path.glob("*.jsonl")])}
    else:
        content = read_json(path)
        if not isinstance(content, dict):
            raise LabelError(f"{path}: holds no object of tracks; give a folder of one file per track")
        tracks = {k.lower(): list(v.values()) if isinstance(v, dict) else list(v) for k, v in content.items()}
    wanted = tuple(only or VIDEOMMMU_TRACKS)
    absent = [track for track in wanted if track not in tracks]
    if absent:
        raise LabelError(f"{path}: tracks {', '.join(absent)} missing; complete them, or name the tracks with only=...")
    samples = []
    for track in wanted:
        for place, row in enumerate(tracks[track]):
            where = f"{path}: {track} {place}"
            fields = {
                "id": f"{track}-{need(row, 'id', where)}",
                "video": str(row["id"]),
                "question": need(row, "question", where),
                "source": "video_mmmu",
                "extras": {"track": track, "type": track},
            }
            samples.append(_option_or_text(where, row.get("options") or [], need(row, "answer", where), fields))
    return samples


VIDEOMMMU_TRACKS = ("perception", "comprehension", "adaptation")


def _option_or_text(where: str, options: Sequence[str], right: Any, fields: dict[str, Any]) -> Sample:
    if options:
        return choice_sample(where, options, right, task="choice", **fields)
    return make_sample(where, answer=str(right), task="math", **fields)


def measure_videommmu(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Accuracy over questions and per track."""
    return grouped({"accuracy": values_of(judgements)}, judgements, resamples, ["track"])


def knowledge_gain(before: Sequence[Judgement], after: Sequence[Judgement], seed: int = 0) -> np.ndarray:
    """Delta knowledge = (after - before) / (100 - before) x 100 of the adaptation track, paired; shape [1 + R]."""
    chosen = [i for i, j in enumerate(after) if j.sample.extras["track"] == "adaptation"]
    if [before[i].sample.id for i in chosen] != [after[i].sample.id for i in chosen]:
        raise ValueError("knowledge gain needs answers to the same questions, without and with the video")
    resamples = Resamples([after[i].sample.video for i in chosen], seed)
    everything = np.ones((len(chosen), 1), bool)
    was, now = (resamples.means(values_of([js[i] for i in chosen]), everything)[:, 0] for js in (before, after))
    return 100 * np.divide(now - was, 1 - was, out=np.full_like(now, np.nan), where=was < 1)


VIDEOMMMU = Benchmark(
    name="video_mmmu",
    title="Video-MMMU",
    read=read_videommmu,
    metrics=(Metric("accuracy", "as the line says"),),
    measure=measure_videommmu,
    baselines=with_texts,
    note=f"{_NOTE}. Open questions by equality of the expressions (math-verify). Delta knowledge: before=PREDICTIONS "
    "of a run without the video",
)


def read_mmvu(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """`validation.json`; ids are `id`."""
    samples = []
    for place, row in enumerate(read_rows(path)):
        where = f"{path}: record {place}"
        kind = need(row, "question_type", where)
        choices = row.get("choices") or {}
        options = [text for _, text in sorted(choices.items()) if text] if kind == "multiple-choice" else []
        fields = {
            "id": str(need(row, "id", where)),
            "video": "/".join(str(need(row, "video", where)).split("/")[-2:]),
            "question": need(row, "question", where),
            "source": "mmvu",
            "extras": {"type": kind, "subject": (row.get("metadata") or {}).get("subject", "")},
        }
        if options:
            samples.append(choice_sample(where, options, need(row, "answer", where), task="choice", **fields))
        else:
            samples.append(make_sample(where, answer=str(need(row, "answer", where)), task="open_ended", **fields))
    return [sample for sample in samples if not only or sample.extras["type"] in only]


async def same_answer(judge: Judge, question: str, gold: str, told: str) -> bool | None:
    """Whether the judge takes `told` for the gold answer; None where it gave no verdict."""
    verdict = await judge.entailed([f"The answer to {question!r} is: {gold}"], f"The answer to {question!r} is: {told}")
    return None if verdict is UNJUDGED else verdict[0]


async def ask_mmvu(judgements: Sequence[Judgement], judge: Judge) -> list[Judgement]:
    """Open-ended answers by the judge; multiple choice stays with the rules."""

    async def one(j: Judgement) -> dict[str, float] | None:
        if j.sample.task != "open_ended":
            return {"value": j.value}
        same = await same_answer(judge, j.sample.question, j.sample.answer, j.answer)
        return None if same is None else {"value": float(same)}

    return await ask_each(judgements, one)


def measure_mmvu(judgements: Sequence[Judgement], resamples: Resamples) -> list[Part]:
    """Multiple choice by rules; open-ended and all only where a judge was asked."""
    groups = masks(judgements, "type")
    judged = any(ASKED in j.marks for j in judgements)
    if judged:
        groups = {"all questions": np.ones(len(judgements), bool)} | groups
    found = means({"accuracy (judge)" if judged else "accuracy": values_of(judgements)}, groups, resamples)
    shown = [name for name in groups if judged or name == "multiple-choice"]
    return [Part(name, groups[name], found[name], overall=True) for name in shown]


MMVU = Benchmark(
    name="mmvu",
    title="MMVU, validation",
    read=read_mmvu,
    metrics=(Metric("accuracy", "multiple choice by rules, over questions"), Metric("accuracy (judge)", MICRO)),
    measure=measure_mmvu,
    baselines=with_texts,
    ask=ask_mmvu,
    note="Officially GPT-4o judges both kinds; here multiple choice is by rules, and open-ended questions count only "
    "where a judge is named. Video-R1 and VideoP2R report the multiple-choice part",
)

BENCHMARKS = (
    SHOTBENCH, REFINESHOT, VIDTAB, MVBENCH, VIDEOMME, PERCEPTION_TEST, TEMPCOMPASS, VSIBENCH, VIDEOMMMU, MMVU,
)  # fmt: skip

"""Perception Test: multiple choice."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.sample import Sample
from evaluation.benchmarks.labels import choice_sample, need, no_parts, of_kind, read_json, read_rows
from evaluation.benchmarks.multiple_choice import plain_choice


def read_perception_test(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """The official object by video, or the rows of the hub; ids are `<video>-<question>`.

    Labels and videos: google-deepmind/perception_test, mc_question_{train,valid}.json and videos/<video>.mp4.
    """
    no_parts(only)
    if path.suffix == ".json" and isinstance(content := read_json(path), dict):
        rows = []
        for video, value in content.items():
            for question in need(value, "mc_question", f"{path}: {video}", list):
                question = of_kind(question, dict, f"{path}: {video}: mc_question")
                rows.append({**question, "video_name": video, "question_id": question.get("id")})
    else:
        rows = read_rows(path)
    samples = []
    for index, row in enumerate(rows):
        where = f"{path}: record {index}"
        right = need(row, "answer_id", where)
        samples.append(
            choice_sample(
                where,
                need(row, "options", where, list),
                int(right) if str(right).isdecimal() else right,
                id=f"{need(row, 'video_name', where)}-{need(row, 'question_id', where)}",
                video=f"{row['video_name']}.mp4",
                question=need(row, "question", where),
                task="choice",
                source="perception_test",
                extras={key: row[key] for key in ("area", "reasoning") if key in row} | {"type": row.get("area", "")},
            )
        )
    return samples


PERCEPTION_TEST = plain_choice(
    "perception_test",
    "Perception Test, multiple choice",
    read_perception_test,
    ["area", "reasoning"],
    note="Official: top-1 accuracy over questions",
)

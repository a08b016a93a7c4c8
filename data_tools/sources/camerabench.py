"""CameraBench (arXiv 2504.15376): the official labels of its test set, as its evaluation code publishes them.

That code is the folder camerabench/ of github.com/linzhiqiu/t2v_metrics.

Questions are answered Yes or No; options stand in CamReasoner's order, No before Yes. Some published files name videos
by a path on their authors' machine; a video's name is what identifies it, so that is what is kept.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_tools.sources.base import Item, Record, Source, yes_or_no
from data_tools.sources.readers import json_array, json_lines

# The published name of each primitive -> ours (rewards/motions.py).
PRIMITIVES = {
    "Static": "static",
    "Move In": "dolly_in",
    "Move Out": "dolly_out",
    "Move Up": "pedestal_up",
    "Move Down": "pedestal_down",
    "Move Left": "truck_left",
    "Move Right": "truck_right",
    "Zoom In": "zoom_in",
    "Zoom Out": "zoom_out",
    "Pan Left": "pan_left",
    "Pan Right": "pan_right",
    "Tilt Up": "tilt_up",
    "Tilt Down": "tilt_down",
    "Roll Clockwise": "roll_cw",
    "Roll Counterclockwise": "roll_ccw",
}


class Binary(Record):
    """One question of binary_classification/<Primitive>.jsonl; `image` names a video."""

    image: str
    question: str
    label: Literal["Yes", "No"]
    task: str
    label_name: str

    def fields(self, item: Item) -> dict[str, Any]:
        extras = {"primitive": self.task, "label_name": self.label_name}
        if self.task in PRIMITIVES:
            extras["asked"] = PRIMITIVES[self.task]
        return {
            "id": f"{item.file.stem}_{item.place}",  # as CamReasoner's file names the same question
            "video": PurePosixPath(self.image).name,
            "question": self.question,
            "extras": extras,
            **yes_or_no(self.label),
        }


class Pair(Record):
    """One of the four answers of a pair: each question is asked about each of the two videos."""

    task: str
    pos_video: str
    neg_video: str
    pos_question: str
    neg_question: str
    asks: Literal["pos", "neg"]
    shows: Literal["pos", "neg"]

    def fields(self, item: Item) -> dict[str, Any]:
        skill, pair = item.file.parent.name, item.place.partition("/")[0]
        return {
            "id": f"{skill}-{item.file.stem}-{pair}-{self.asks}-{self.shows}",
            "video": PurePosixPath(self.pos_video if self.shows == "pos" else self.neg_video).name,
            "question": self.pos_question if self.asks == "pos" else self.neg_question,
            # The folder is the skill that results are grouped by; the key `skill` inside says something else.
            "extras": {
                "skill": skill,
                "task": self.task,
                "pair": f"{skill}-{item.file.stem}-{pair}",
                "asks": self.asks,
                "shows": self.shows,
            },
            **yes_or_no("Yes" if self.asks == self.shows else "No"),
        }


class Caption(Record):
    """One reference caption."""

    video: str
    question: str
    answer: str

    def fields(self, item: Item) -> dict[str, Any]:
        video = PurePosixPath(self.video).name
        return {"video": video, "question": self.question, "answer": self.answer, "task": "open_ended"}


def _four_of_each(path: Path) -> Iterator[Item]:
    for item in json_lines(path):
        if not isinstance(item.content, dict):
            yield item
            continue
        for asks in ("pos", "neg"):
            for shows in ("pos", "neg"):
                place = f"{item.place}/{asks}-{shows}"
                yield Item(item.file, place, item.content | {"asks": asks, "shows": shows})


_HUB = (("syCen/Videos4CameraBench", ("*",)),)
_MEDIA = "the 1,071 test videos, side by side: <name>.mp4"
_LICENCE = "CC-BY-4.0"
_CODE = "github.com/linzhiqiu/t2v_metrics: camerabench"
SOURCES = (
    Source(
        name="camerabench_binary",
        title="CameraBench, binary classification: 15 primitives, 7,679 questions",
        items=json_lines,
        record=Binary,
        tasks=("binary",),
        licence=_LICENCE,
        labels=f"{_CODE}/binary_classification/*.jsonl (one file, or the folder)",
        media=_MEDIA,
        hub=_HUB,
    ),
    Source(
        name="camerabench_vqa",
        title="CameraBench, VQA and retrieval: 3,543 pairs in 9 skills, four answers each",
        items=_four_of_each,
        record=Pair,
        tasks=("binary",),
        licence=_LICENCE,
        labels=f"{_CODE}/vqa_and_retrieval/<skill>/*.jsonl (one file, a skill, or all)",
        media=_MEDIA,
        hub=_HUB,
    ),
    Source(
        name="camerabench_captions",
        title="CameraBench, captions: 1,071 reference texts",
        items=json_array,
        record=Caption,
        tasks=("open_ended",),
        licence=_LICENCE,
        labels=f"{_CODE}/caption_data.json",
        media=_MEDIA,
        hub=_HUB,
    ),
)

"""The four sets that VideoChat-R1 (arXiv 2504.06958) trains and is tested on, as its repository publishes them."""

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from data_tools.sample import RecordError
from data_tools.sources.files import csv_rows, json_array, json_object
from data_tools.sources.source import Item, Record, Source, SourceError, by_option


class Moment(Record):
    """A sentence, and when the video shows it (Charades-STA, ActivityNet Captions); one of each of the two lists."""

    video: str = Field(min_length=1)
    duration: float
    timestamps: list[float]
    sentences: str

    def fields(self, item: Item) -> dict[str, Any]:
        event = self.sentences.strip().lower().removesuffix(".")  # as VideoChat-R1 asks for it
        if not event:
            raise RecordError("sentences", "one is empty")
        return {
            "id": item.place,
            "video": f"{self.video}.mp4",
            "question": f'When does this happen: "{event}"? Give start and end in seconds.',
            "task": "temporal_grounding",
            "spans": [self.timestamps],
            "duration": self.duration,
        }


def _moments(video: str, value: Any) -> Iterator[tuple[str, Any]]:
    """`value`: {duration, timestamps: [[start, end], ...], sentences: [text, ...]} of one video."""
    lists = [value.get(key) for key in ("timestamps", "sentences")] if isinstance(value, dict) else []
    if not lists or not all(isinstance(part, list) for part in lists):
        yield video, value
        return
    for number, (timestamp, sentence) in enumerate(zip_longest(*lists)):
        yield f"{video}-{number}", value | {"video": video, "timestamps": timestamp, "sentences": sentence}


class GroundedQuestion(Record):
    """A question with options, and when the video shows the answer (NExT-GQA)."""

    id: str
    video: str
    question: str
    options: list[str]
    answer: str
    glue: list[list[float]]
    duration: float
    type: str | None = None

    def fields(self, item: Item) -> dict[str, Any]:
        return {
            "id": self.id,
            "video": self.video,
            "question": self.question,
            **by_option(self.options, self.answer),
            "task": "grounded_qa",
            "spans": self.glue,
            "duration": self.duration,
            "extras": {"type": self.type} if self.type else {},
        }


class Grounding(Record):
    """What gsub_<split>.json says of a video: [start, end] lists by question."""

    duration: float
    location: dict[str, list[list[float]]]


class Row(Record):
    """A row of <split>.csv, joined with its video's grounding and place."""

    video_id: str
    qid: str
    question: str
    answer: str
    type: str
    a0: str
    a1: str
    a2: str
    a3: str
    a4: str
    grounding: Grounding | None
    place: str | None

    def fields(self, item: Item) -> dict[str, Any]:
        if self.grounding is None or self.qid not in self.grounding.location:
            raise RecordError("qid", f"no grounding of question {self.qid} about video {self.video_id}")
        return {
            "id": f"{self.video_id}_{self.qid}",
            "video": f"{self.place}.mp4",
            "question": self.question,
            **by_option([self.a0, self.a1, self.a2, self.a3, self.a4], self.answer),
            "task": "grounded_qa",
            "spans": self.grounding.location[self.qid],
            "duration": self.grounding.duration,
            "extras": {"type": self.type},
        }


def _nextgqa(path: Path) -> Iterator[Item]:
    """Rows of <split>.csv with what gsub_<split>.json says of them, and map_vid_vidorID.json where it is there."""
    groundings = _beside(path, f"gsub_{path.stem}.json", needed=True)
    places = _beside(path, "map_vid_vidorID.json", needed=False)
    for item in csv_rows(path):
        video = item.content.get("video_id")
        joined = {"grounding": groundings.get(video), "place": places.get(video, video)}
        yield Item(item.file, item.place, item.content | joined)


def _beside(path: Path, name: str, needed: bool) -> dict[str, Any]:
    file = path.with_name(name)
    if not file.is_file():
        if needed:
            raise SourceError(f"{path}: needs {name} beside it, where its groundings stand")
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise SourceError(f"{file}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{file}: holds no JSON object by video id")
    return content


class Track(Record):
    """Eight boxes of one object, evenly spread over the sequence; the first one is given in the question."""

    path: str = Field(min_length=1)
    object: str = Field(min_length=1)
    gt: list[list[float]] = Field(min_length=2)

    def fields(self, item: Item) -> dict[str, Any]:
        sequence = PurePosixPath(self.path).name
        return {
            "id": sequence,
            "video": f"{sequence}.mp4",
            "question": f"The {self.object} starts at {self.gt[0]}. Where is it at {len(self.gt)} moments spread "
            f"evenly over the video, the first and the last among them? Give {len(self.gt)} boxes [x0, y0, x1, y1] "
            "as shares of width and height.",
            "task": "tracking",
            "boxes": self.gt,
        }


_CHARADES = (("lmms-eval/charades_sta", ("*",)),)
_NEXTQA = (("rhymes-ai/NeXTVideo", ("*.zip",)),)
SOURCES = (
    Source(
        name="charades_sta",
        title="Charades-STA: 12,408 moments to train on, 3,720 to test on",
        items=json_object(_moments),
        record=Moment,
        licence="Charades: non-commercial use",
        labels="Annotations/Charades/{train,test}.json of VideoChat-R1 (its val.json equals test.json: do not use it)",
        media="<video id>.mp4, side by side (Charades_v1_480)",
        hub=_CHARADES,
    ),
    Source(
        name="activitynet",
        title="ActivityNet Captions as moments: 37,421 to train on, 17,505 (val), 17,031 (test)",
        items=json_object(_moments),
        record=Moment,
        licence="research use; the videos are YouTube's",
        labels="Annotations/ActivityNet/{train,val,test}.json of VideoChat-R1 (the videos of test all stand in val)",
        media="v_<YouTube id>.mp4, side by side",
    ),
    Source(
        name="nextgqa",
        title="NExT-GQA in VideoChat-R1's form: questions with options and groundings",
        items=json_array,
        record=GroundedQuestion,
        licence="MIT (labels); videos of VidOR",
        labels="Annotations/NextGQA/*.json of VideoChat-R1",
        media="<folder>/<video id>.mp4, as VidOR lays them out",
        hub=_NEXTQA,
    ),
    Source(
        name="nextgqa_official",
        title="NExT-GQA as published: 3,358 (val) and 5,553 (test) questions",
        items=_nextgqa,
        record=Row,
        licence="MIT (labels); videos of VidOR",
        labels="{val,test}.csv, with gsub_{val,test}.json and map_vid_vidorID.json beside it",
        media="<folder>/<video id>.mp4 by map_vid_vidorID.json, else <video id>.mp4",
        hub=_NEXTQA,
    ),
    Source(
        name="got10k",
        title="GOT-10k in VideoChat-R1's form: eight boxes per sequence",
        items=json_array,
        record=Track,
        licence="CC-BY-NC-SA-4.0",
        labels="Annotations/GOT-10k/got_{train,val}.json of VideoChat-R1",
        media="GOT-10k_{Train,Val}_<number>.mp4, side by side, made of the sequences' JPEG files",
    ),
)

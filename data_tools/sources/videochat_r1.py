"""The sets that VideoChat-R1 (arXiv 2504.06958) trains and is tested on, as its repository publishes them.

The repository is github.com/OpenGVLab/VideoChat-R1, its label files lie in Annotations/.
"""

import ast
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from data_tools.files import JsonError, parse_json
from data_tools.sample import FieldError
from data_tools.sources.base import Item, Record, Source, SourceError, before_zero, by_option, from_zero
from data_tools.sources.readers import csv_rows, json_array, json_object


class Moment(Record):
    """A sentence, and when the video shows it (Charades-STA, ActivityNet Captions); one of each of the two lists.

    Some copies of the labels (TFVTG's) know no duration, which no metric needs.
    """

    video: str = Field(min_length=1)
    duration: float | None = None
    timestamps: list[float]
    sentences: str

    def fields(self, item: Item) -> dict[str, Any]:
        event = self.sentences.strip().lower().removesuffix(".")  # as VideoChat-R1 asks for it
        if not event:
            raise FieldError("sentences", "one is empty")
        return {
            "id": item.place,
            "video": f"{self.video}.mp4",
            "question": f'When does this happen: "{event}"? Give start and end in seconds.',
            "task": "temporal_grounding",
            "spans": [self.timestamps],
            "duration": self.duration,
            "extras": {"event": event},
        }


def _moments(video: str, value: Any) -> Iterator[tuple[str, Any]]:
    """`value`: {duration, timestamps: [[start, end], ...], sentences: [text, ...]} of one video."""
    parts = [value.get(key) for key in ("timestamps", "sentences")] if isinstance(value, dict) else []
    lists = [part for part in parts if isinstance(part, list)]
    if len(lists) < 2:
        yield video, value
        return
    for number, (timestamp, sentence) in enumerate(zip_longest(*lists)):
        yield f"{video}-{number}", value | {"video": video, "timestamps": timestamp, "sentences": sentence}


class GroundedQuestion(Record):
    """A question with options, and when the video shows the answer (NExT-GQA).

    In its test set 36 spans start at -0.1 or -0.2 s, which counts as 0, and 3 questions have an option twice, of which
    either is right (in val: 1 question).
    """

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
            "spans": from_zero(self.glue),
            "duration": self.duration,
            "extras": ({"type": self.type} if self.type else {}) | before_zero(self.glue),
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
            raise FieldError("qid", f"no grounding of question {self.qid} about video {self.video_id}")
        return {
            "id": f"{self.video_id}_{self.qid}",
            "video": f"{self.place}.mp4",
            "question": self.question,
            **by_option([self.a0, self.a1, self.a2, self.a3, self.a4], self.answer),
            "task": "grounded_qa",
            "spans": from_zero(self.grounding.location[self.qid]),
            "duration": self.grounding.duration,
            "extras": {"type": self.type} | before_zero(self.grounding.location[self.qid]),
        }


def _nextgqa(path: Path) -> Iterator[Item]:
    """Rows of <split>.csv with what gsub_<split>.json says of them, and map_vid_vidorID.json where it is there."""
    groundings = _beside(path, f"gsub_{path.stem}.json", needed=True)
    places = _beside(path, "map_vid_vidorID.json", needed=False)
    for item in csv_rows(path):
        if isinstance(item.content, FieldError):
            yield item
            continue
        video = item.content.get("video_id")
        joined = {"grounding": groundings.get(video), "place": places.get(video, video)}
        yield Item(item.file, item.place, item.content | joined)


def _beside(path: Path, name: str, needed: bool) -> dict[str, Any]:
    file = path.with_name(name)
    if not file.is_file():
        if needed:
            raise SourceError(f"{path}: needs {name} beside it, which holds its groundings")
        return {}
    try:
        content = parse_json(file.read_bytes())
    except JsonError as error:
        raise SourceError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{file}: is not a JSON object by video id")
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
            "extras": {"object": self.object, "start": self.gt[0]},
        }


class Grade(Record):
    """Whether a video is of high quality; the options stand as a Python list in the instruction (VidTAB)."""

    video: str = Field(min_length=1)
    instruction: str
    answer: str

    def fields(self, item: Item) -> dict[str, Any]:
        listed = re.search(r"\[[^\]]*\]", self.instruction)
        try:
            options = ast.literal_eval(listed[0]) if listed else []
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            shown = listed and listed[0][:80]
            raise FieldError("instruction", f"its options are not a list: {shown}") from error
        return {
            "id": self.video,
            "video": self.video,
            "question": self.instruction,
            **by_option(list(map(str, options)), self.answer),
            "task": "quality",
            "extras": {"type": "quality"},
        }


class Described(Record):
    """A video and what people say about it (CaReBench); data_tools.events extracts the events of it."""

    video: str = Field(min_length=1)
    caption: str = Field(min_length=1)

    def fields(self, item: Item) -> dict[str, Any]:
        return {
            "id": PurePosixPath(self.video).stem,
            "video": self.video,
            "question": "Describe the video in detail.",
            "answer": self.caption,
            "task": "open_ended",
        }


_CODE = "github.com/OpenGVLab/VideoChat-R1: Annotations"
_CHARADES = (("lmms-eval/charades_sta", ("*",)),)
_NEXTQA = (("rhymes-ai/NeXTVideo", ("*.zip",)),)
SOURCES = (
    Source(
        name="charades_sta",
        title="Charades-STA: 12,408 moments to train on, 3,720 to test on",
        items=json_object(_moments),
        record=Moment,
        tasks=("temporal_grounding",),
        licence="Charades: non-commercial use",
        labels=f"{_CODE}/Charades/charades_annotation/{{train,charades_test}}.json "
        "(its val.json equals charades_test.json: do not use it)",
        media="<video id>.mp4, side by side (Charades_v1_480)",
        hub=_CHARADES,
    ),
    Source(
        name="activitynet",
        title="ActivityNet Captions as moments: 37,421 to train on, 17,505 (val), 17,031 (test)",
        items=json_object(_moments),
        record=Moment,
        tasks=("temporal_grounding",),
        licence="research use; the videos are YouTube's",
        labels=f"{_CODE}/ActivityNet/activitynet_annotation/{{train,val,test}}.json "
        "(all videos of test are in val, too)",
        media="v_<YouTube id>.mp4, side by side",
    ),
    Source(
        name="nextgqa",
        title="NExT-GQA in VideoChat-R1's form: questions with options and groundings",
        items=json_array,
        record=GroundedQuestion,
        tasks=("grounded_qa",),
        licence="MIT (labels); videos of VidOR",
        labels=f"{_CODE}/NextGQA/nextgqa_{{val,test}}.json",
        media="<folder>/<video id>.mp4, as VidOR lays them out",
        hub=_NEXTQA,
    ),
    Source(
        name="nextgqa_official",
        title="NExT-GQA as published: 3,358 (val) and 5,553 (test) questions",
        items=_nextgqa,
        record=Row,
        tasks=("grounded_qa",),
        licence="MIT (labels); videos of VidOR",
        labels="github.com/doc-doc/NExT-GQA: datasets/nextgqa/{val,test}.csv with gsub_{val,test}.json beside it, and "
        "NExT-QA's map_vid_vidorID.json",
        media="<folder>/<video id>.mp4 by map_vid_vidorID.json, else <video id>.mp4",
        hub=_NEXTQA,
    ),
    Source(
        name="got10k",
        title="GOT-10k in VideoChat-R1's form: eight boxes per sequence",
        items=json_array,
        record=Track,
        tasks=("tracking",),
        licence="CC-BY-NC-SA-4.0",
        labels=f"{_CODE}/Got/got_{{train,val}}.json",
        media="GOT-10k_{Train,Val}_<number>.mp4, side by side, made of the sequences' JPEG files by "
        "python -m data_tools.frames train to=got frames=8 fps=2",
    ),
    Source(
        name="vidtab_qa",
        title="VidTAB's quality assessment as questions: 200 (100-shot) to train on, 724 to test on",
        items=json_array,
        record=Grade,
        tasks=("quality",),
        licence="none stated",
        labels=f"{_CODE}/VideoEval/Quality_Access/annotations/Quality_Access_{{4shot,16shot,100shot,test}}.json",
        media="<number>.mp4, side by side (the quality task of leexinhao/VideoEval on GitHub)",
    ),
    Source(
        name="carebench",
        title="CaReBench, called FIBER-1k in VideoChat-R1: 1,000 long captions",
        items=json_array,
        record=Described,
        tasks=("open_ended",),
        licence="MIT",
        labels="json/metadata.json of the data set on the hub (code: github.com/MCG-NJU/CaReBench)",
        media="as its videos/ folder",
        hub=(("MCG-NJU/CaReBench", ("*",)),),
    ),
)

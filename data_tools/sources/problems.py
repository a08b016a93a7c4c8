"""Files of problems: Video-R1 (arXiv 2503.21776), OneThinker (arXiv 2512.03043), and CamReasoner in their form.

A problem has a type, options where it is a choice, and an answer in <answer> tags; grounding answers are JSON inside
them. Problems about images are no samples: they are counted, with that reason.
"""

import json
from typing import Any

from data_tools.sample import RecordError
from data_tools.sources.camerabench import PRIMITIVES
from data_tools.sources.files import json_or_lines
from data_tools.sources.source import Item, Record, Source, by_option, inner_answer, plain_question

_TASKS = {
    "numerical": "numerical",
    "regression": "regression",
    "ocr": "ocr",
    "free-form": "open_ended",
    "open-ended": "open_ended",
    "math": "math",
    "temporal grounding": "temporal_grounding",
    "spatial grounding": "spatial_grounding",
    "tracking": "tracking",
}


class Problem(Record):
    """The keys of all three; the answer stands in `solution` or `answer`, the video in `path` or `videos`."""

    problem: str
    problem_type: str
    data_type: str = "video"
    problem_id: str | int | None = None
    id: str | None = None
    options: list[str] | None = None
    solution: str | None = None
    answer: str | None = None
    process: str | None = None
    path: str | None = None
    videos: list[str] | None = None
    data_source: str | None = None

    def fields(self, item: Item) -> dict[str, Any]:
        if self.data_type != "video":
            raise RecordError("data_type", f"is {self.data_type}; only videos are taken")
        videos = self.videos or [self.path or ""]
        if len(videos) > 1:
            raise RecordError("videos", f"holds {len(videos)}; only questions about one video are taken")
        solution = self.solution if self.solution is not None else self.answer
        if solution is None:
            raise RecordError("solution", "is missing, and so is answer")
        extras = {"problem_id": self.problem_id, "data_source": self.data_source}
        known = {"id": self.id} if self.id else {}
        if self.id and (asked := PRIMITIVES.get(self.id.rpartition("_")[0].replace("_", " "))):
            extras["asked"] = asked
        extras = {key: value for key, value in extras.items() if value is not None}
        fields = _answered(self.problem_type, self.options or [], inner_answer(solution))
        return {
            **known,
            "video": videos[0],
            "question": plain_question(self.problem),
            "chain": f"{self.process}\n{solution}" if self.process else None,
            **fields,
            "extras": extras | fields.get("extras", {}),
        }


def _answered(problem_type: str, options: list[str], answer: str) -> dict[str, Any]:
    """Task, and what of answer, options, spans and boxes it needs."""
    kind = problem_type.lower()
    if kind == "multiple choice":
        return by_option(options, answer)
    if kind not in _TASKS:
        raise RecordError("problem_type", f"{problem_type!r} is no task that is scored here")
    task = _TASKS[kind]
    return {"task": task, "answer": answer} if task not in _GROUNDED else {"task": task, **_GROUNDED[task](answer)}


def _time(answer: str) -> dict[str, Any]:
    return {"spans": [_json(answer, "time", list)]}


def _box(answer: str) -> dict[str, Any]:
    return {"boxes": [_json(answer, "boxes", list)]}


def _boxes(answer: str) -> dict[str, Any]:
    """One box per second, named by its number; the numbers are kept, since some seconds may be left out."""
    boxes = _json(answer, "boxes", dict)
    try:
        seconds = sorted(boxes, key=int)
    except ValueError as error:
        raise RecordError("answer", f"{error}: boxes are named by whole seconds") from error
    return {"boxes": [boxes[second] for second in seconds], "extras": {"seconds": [int(s) for s in seconds]}}


_GROUNDED = {"temporal_grounding": _time, "spatial_grounding": _box, "tracking": _boxes}


def _json(answer: str, key: str, kind: type) -> Any:
    try:
        value = json.loads(answer)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError("answer", f"{answer[:80]!r} is no JSON object with the key {key}") from error
    if not isinstance(value, kind):
        raise RecordError("answer", f"{key} is {str(value)[:80]} instead of a {kind.__name__}")
    return value


_VIDEO_R1 = {
    "items": json_or_lines,
    "record": Problem,
    "licence": "Apache-2.0 (labels); videos under the terms of the sets that they come from",
    "media": "the archives of the set, unpacked: CLEVRER/, LLaVA-Video-178K/, NeXT-QA/, PerceptionTest/, STAR/",
    "hub": (("Video-R1/Video-R1-data", ("*",)),),
}
_CAMREASONER = {
    "items": json_or_lines,
    "record": Problem,
    "licence": "none stated (paper: CC-BY-NC-SA-4.0)",
    "media": "video/<name>.mp4",
}
SOURCES = (
    Source(
        name="camreasoner_eval",
        title="CamReasoner's form of CameraBench's binary questions",
        labels="camerabench_binary.json",
        hub=(("syCen/Videos4CameraBench", ("*",)),),
        **_CAMREASONER,
    ),
    Source(
        name="camreasoner_rl",
        title="CamReasoner's RL set: 38k questions about CameraBench's training videos",
        labels="camerabench_rl.json",
        hub=(("chancharikm/cambench_train_videos", ("*",)),),
        **_CAMREASONER,
    ),
    Source(name="video_r1", title="Video-R1, RL set of 260k problems", labels="Video-R1-260k.json", **_VIDEO_R1),
    Source(
        name="video_r1_cot",
        title="Video-R1, SFT set of 165k problems with reasoning chains",
        labels="Video-R1-COT-165k.json",
        **_VIDEO_R1,
    ),
    Source(
        name="onethinker",
        title="OneThinker, RL set of problems of ten kinds (VideoP2R and CamReasoner build on its form)",
        items=json_or_lines,
        record=Problem,
        licence="none stated; videos under the terms of the sets that they come from",
        labels="onethinker_rl_train.json, or the files of OneThink/OneThinker-eval",
        media="the archives of the set, unpacked, one folder per data set",
        hub=(("OneThink/OneThinker-train-data", ("*",)),),
    ),
)

"""Files of problems: Video-R1 (arXiv 2503.21776), OneThinker (arXiv 2512.03043), and CamReasoner in their form.

A problem has a type, options where it is a choice, and an answer in <answer> tags; grounding answers are JSON inside
them. A problem is about one video, or about images.
"""

from typing import Any

from data_tools.files import JsonError, parse_json
from data_tools.sample import FieldError
from data_tools.sources.base import (
    Item,
    Record,
    Source,
    about_images,
    are_frames,
    by_option,
    inner_answer,
    plain_question,
    yes_or_no,
)
from data_tools.sources.camerabench import PRIMITIVES
from data_tools.sources.readers import json_or_lines

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
    """The keys of all three; the answer is in `solution` or `answer`, the video in `path` or `videos`, the images in
    `path` (one) or `images`. A list of picture files in place of a video's path are its frames, `fps` of them a second.

    A problem without a type is a choice where it has options or is answered Yes or No: CamReasoner's loader needs none.
    """

    problem: str
    problem_type: str | None = None
    data_type: str = "video"
    problem_id: str | int | None = None
    id: str | None = None
    options: list[str] | None = None
    solution: str | None = None
    answer: str | None = None
    process: str | None = None
    path: str | list[str] | None = None
    videos: list[str | list[str]] | None = None
    images: list[str] | None = None
    fps: float | None = None
    data_source: str | None = None

    def fields(self, item: Item) -> dict[str, Any]:
        shown = self._shown()
        solution = self.solution if self.solution is not None else self.answer
        if solution is None:
            raise FieldError("solution", "is missing, and so is answer")
        extras = {"problem_id": self.problem_id, "data_source": self.data_source}
        known = {"id": self.id} if self.id else {}
        if self.id and (asked := PRIMITIVES.get(self.id.rpartition("_")[0].replace("_", " "))):
            extras["asked"] = asked
        extras = {key: value for key, value in extras.items() if value is not None}
        fields = _answered(self.problem_type, shown.pop("options"), inner_answer(solution))
        return {
            **known,
            **shown,
            "chain": f"{self.process}\n{solution}" if self.process else None,
            **fields,
            "extras": extras | fields.get("extras", {}),
        }

    def _shown(self) -> dict[str, Any]:
        """Video or images, question and options."""
        options = self.options or []
        if self.data_type == "image":
            if self.videos:
                raise FieldError("videos", "is not empty, though data_type is image")
            path = self.path if isinstance(self.path, list) else [self.path or ""]
            if not (images := self.images or [name for name in path if name]):
                raise FieldError("images", "is missing, and so is path")
            return about_images(self.problem, options, images)
        if self.data_type != "video":
            raise FieldError("data_type", f"is {self.data_type}; only video and image are taken")
        videos = self.videos or [self.path or ""]
        if are_frames(videos):
            videos = [[str(path) for path in videos]]
        if len(videos) > 1:
            raise FieldError("videos", f"holds {len(videos)}; only questions about one video are taken")
        (video,) = videos
        shown = {"video": video} if isinstance(video, str) else {"frames": video, "fps": self.fps}
        return shown | {"question": plain_question(self.problem), "options": options}


class Pairing(Problem):
    """CamReasoner's form of CameraBench's VQA: which of a pair's two questions has the answer yes (or no)?

    The label is A of every question about yes and B of every one about no, whatever the video shows.
    """

    problem_id: str  # <task>-<number>, four numbers a pair

    def fields(self, item: Item) -> dict[str, Any]:
        task = self.problem_id.rpartition("-")[0]
        return super().fields(item) | {"id": self.problem_id, "extras": {"task": task}}


def _answered(problem_type: str | None, options: list[str], answer: str) -> dict[str, Any]:
    """Task, and what of answer, options, spans and boxes it needs."""
    kind = (problem_type or "").lower()
    if kind == "multiple choice" or (not kind and options):
        return by_option(options, answer)
    if not kind and answer.rstrip(".").casefold() in ("yes", "no"):
        return yes_or_no(answer)
    if not kind:
        raise FieldError("problem_type", "is missing, and so are options, of a question not answered Yes or No")
    if kind not in _TASKS:
        raise FieldError("problem_type", f"{problem_type!r} is not a task that is scored here")
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
        raise FieldError("answer", f"{error}: boxes are named by whole seconds") from error
    return {"boxes": [boxes[second] for second in seconds], "extras": {"seconds": [int(s) for s in seconds]}}


_GROUNDED = {"temporal_grounding": _time, "spatial_grounding": _box, "tracking": _boxes}


def _json(answer: str, key: str, kind: type) -> Any:
    try:
        value = parse_json(answer)[key]
    except JsonError as error:
        raise FieldError("answer", str(error)) from error
    except (KeyError, TypeError) as error:
        raise FieldError("answer", f"{answer[:80]!r} is not a JSON object with the key {key}") from error
    if not isinstance(value, kind):
        raise FieldError("answer", f"{key} is {str(value)[:80]} instead of a {kind.__name__}")
    return value


def _source(
    record: type[Problem],
    /,
    name: str,
    title: str,
    tasks: tuple[str, ...],
    labels: str,
    licence: str,
    media: str,
    hub: str,
) -> Source:
    return Source(name, title, json_or_lines, record, tasks, licence, labels, media, ((hub, ("*",)),))


_VIDEO_R1_TASKS = ("binary", "choice", "numerical", "regression", "ocr", "open_ended")
_VIDEO_R1 = {
    "licence": "Apache-2.0 (labels); media under the terms of the sets that they come from",
    "media": "the archives of the set, unpacked: CLEVRER/, LLaVA-Video-178K/, and so on, and those of images",
    "hub": "Video-R1/Video-R1-data",
}
_CAMREASONER = {"licence": "none stated (paper: CC-BY-NC-SA-4.0)", "media": "video/<name>.mp4"}
SOURCES = (
    _source(
        Problem,
        name="camreasoner_eval",
        title="CamReasoner's form of CameraBench's binary questions",
        tasks=("binary",),
        labels="github.com/wuhang03/CamReasoner: Inference/camerabench_binary.json",
        hub="syCen/Videos4CameraBench",
        **_CAMREASONER,
    ),
    _source(
        Pairing,
        name="camreasoner_vqa",
        title="CamReasoner's form of CameraBench's VQA: 14,172 questions of two options",
        tasks=("choice",),
        labels="github.com/wuhang03/CamReasoner: Inference/camerabench_vqa.json",
        hub="syCen/Videos4CameraBench",
        **_CAMREASONER,
    ),
    _source(
        Problem,
        name="camreasoner_rl",
        title="CamReasoner's RL set: 38k questions about CameraBench's training videos",
        tasks=("binary", "choice"),
        labels="github.com/wuhang03/CamReasoner: EasyR1/camerabench_rl.json",
        hub="chancharikm/cambench_train_videos",
        **_CAMREASONER,
    ),
    _source(
        Problem,
        name="video_r1",
        title="Video-R1, RL set of 260k problems",
        tasks=_VIDEO_R1_TASKS,
        labels="Video-R1-260k.json",
        **_VIDEO_R1,
    ),
    _source(
        Problem,
        name="video_r1_cot",
        title="Video-R1, SFT set of 165k problems with reasoning chains",
        tasks=_VIDEO_R1_TASKS,
        labels="Video-R1-COT-165k.json",
        **_VIDEO_R1,
    ),
    _source(
        Problem,
        name="onethinker",
        title="OneThinker, RL set of problems of ten kinds (VideoP2R and CamReasoner build on its form)",
        tasks=(*_VIDEO_R1_TASKS, "math", "temporal_grounding", "spatial_grounding", "tracking"),
        licence="none stated; videos under the terms of the sets that they come from",
        labels="onethinker_rl_train.json, or the files of OneThink/OneThinker-eval",
        media="the archives of the set, unpacked, one folder per data set",
        hub="OneThink/OneThinker-train-data",
    ),
)

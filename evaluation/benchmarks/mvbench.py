"""MVBench: multiple choice over 20 tasks.

Labels and videos: OpenGVLab/MVBench on the hub, json/<task>.json and the unpacked archives of video/. Its own loader is
video_chat2/mvbench.ipynb of OpenGVLab/Ask-Anything.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from string import ascii_lowercase
from typing import Any

from data_tools.sample import Sample
from evaluation.benchmarks.labels import LabelError, choice_sample, need, optional, read_rows
from evaluation.benchmarks.multiple_choice import plain_choice
from evaluation.benchmarks.official import answered, only

MVBENCH_TASKS = 20
_STAR, _CLEVRER, _PERCEPTION = "star/Charades_v1_480", "clevrer/video_validation", "perception/videos"
# Folder of each task's videos. Those of revision `video` of the hub are cut and converted already.
_FOLDERS = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "object_interaction": _STAR,
    "action_localization": "sta/sta_video",
    "episodic_reasoning": "tvqa/frames_fps3_hq",  # a folder of frames each, `_FPS` of them a second
    "action_antonym": "ssv2_video",
    "fine_grained_pose": "nturgbd",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "scene_transition": "scene_qa/video",
    "egocentric_navigation": "vlnqa",
    "object_existence": _CLEVRER,
    "moving_direction": _CLEVRER,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "counterfactual_inference": _CLEVRER,
    "object_shuffle": _PERCEPTION,
    "action_count": _PERCEPTION,
    "state_change": _PERCEPTION,
    "character_order": _PERCEPTION,
}
_FPS = 3.0
_CUT = {
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "object_interaction": "star/Charades_segment",
    "action_localization": "sta/sta_video_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
}
_CONVERTED = {"action_antonym": "ssv2_video_mp4", "fine_grained_pose": "nturgbd_convert"}


def read_mvbench(path: Path, only: Sequence[str] | None) -> list[Sample]:
    """A folder of one JSON file per task, or one such file. Ids are `<task>-<index>`, counted from 0.

    Videos lie as the hub's archives have them. Five tasks ask about a part of a video, from `start` to `end`; an end
    that is not behind its start is the video's.

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp(), "action_count.json")
        >>> row = {"video": "a.mp4", "question": "How often?", "candidates": ["once", "twice"], "answer": "twice"}
        >>> _ = file.write_text(json.dumps([row]))
        >>> (sample,) = read_mvbench(file, None)
        >>> sample.id, sample.video, sample.options, sample.answer
        ('action_count-0', 'perception/videos/a.mp4', ['once', 'twice'], 'B')
    """
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    if only:
        files = [file for file in files if file.stem in only]
    if path.is_dir() and not only and len(files) != MVBENCH_TASKS:
        raise LabelError(
            f"{path}: holds {len(files)} of {MVBENCH_TASKS} task files; the result is the mean over tasks: complete "
            f"the folder, or name the tasks to score with only=..."
        )
    return [_question(file, index, row) for file in files for index, row in enumerate(read_rows(file))]


def _question(file: Path, index: int, row: dict[str, Any]) -> Sample:
    where = f"{file}: record {index}"
    options, right = need(row, "candidates", where, list), need(row, "answer", where)
    seconds = [optional(row, key, where, int | float) for key in ("start", "end")]
    return choice_sample(
        where,
        options,
        options.index(right) if right in options else right,
        id=f"{file.stem}-{index}",
        question=need(row, "question", where),
        task="choice",
        source="mvbench",
        extras={"task": file.stem, "type": file.stem},
        **_clip(file.stem, need(row, "video", where, str), *seconds),
    )


def _clip(task: str, name: str, start: float | None, end: float | None) -> dict[str, Any]:
    """Path of a question's video, and the part of it that is asked about."""
    path = PurePosixPath(name)
    if task in _CUT and (start is None or path.stem.endswith(f"_{start}_{end}")):  # cut already
        return {"video": str(_CUT[task] / path)}
    converted = _CONVERTED.get(task) if path.suffix == ".mp4" else None
    video = str(PurePosixPath(converted or _FOLDERS.get(task, "")) / path)
    shown: dict[str, Any] = {"video": video} | ({} if path.suffix else {"fps": _FPS})
    if start is None:
        return shown
    return shown | {"start": max(0.0, start), "end": end if end is not None and end > max(0.0, start) else None}


def read_officially(response: str, sample: Sample) -> str:
    """As check_ans of mvbench.ipynb: the first word of the first line names an option, "A", "(A)" or "A.".

    The notebook also takes a word such as "(" or none at all for the right option; here it names none.
    """
    word = (answered(response).split("\n")[0].lower().split(" ") or [""])[0]
    named = [f"({letter})" for letter in ascii_lowercase[: len(sample.options)]]
    return only([letter[1].upper() for letter in named if word.replace(".", "") in letter or letter in word])


MVBENCH = plain_choice(
    "mvbench",
    "MVBench",
    read_mvbench,
    ["task"],
    macro="task",
    note="Official: mean over tasks; mvbench.ipynb reads the letter that an answer begins with",
    official=read_officially,
)

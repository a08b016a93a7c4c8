"""Published conversations of one question and one answer: labels of CameraBench, reasoning chains of others.

A chain is an answer that holds <answer> tags. CameraBench's training labels are given on request only; CamReasoner's
files are public.
"""

from data_tools.sources.base import Source
from data_tools.sources.readers import json_or_lines
from data_tools.sources.trainers import Labelled

_TASKS = ("binary", "choice", "numerical", "open_ended")

SOURCES = (
    Source(
        name="camerabench_train",
        title="CameraBench's training labels: balanced VQA (38,672), captions, unbalanced VQA",
        items=json_or_lines,
        record=Labelled,
        tasks=_TASKS,
        licence="on request from its authors",
        labels="cam_motion/balanced_vqa.json, captionset.json or imb_raw.json, "
        "by the form that github.com/sy77777en/CameraBench names",
        media="videos.zip, unpacked; paths as in the labels",
        hub=(("chancharikm/cambench_train_videos", ("*",)),),
    ),
    Source(
        name="camreasoner_sft",
        title="CamReasoner's SFT set: 18k reasoning chains",
        items=json_or_lines,
        record=Labelled,
        tasks=("binary", "choice"),
        licence="none stated (paper: CC-BY-NC-SA-4.0)",
        labels="github.com/wuhang03/CamReasoner: LLaMA-Factory/data/camerabench_sft.json",
        media="video/<name>.mp4",
        hub=(("chancharikm/cambench_train_videos", ("*",)),),
    ),
    Source(
        name="onethinker_sft",
        title="OneThinker, SFT set of problems with reasoning chains",
        items=json_or_lines,
        record=Labelled,
        tasks=_TASKS,
        licence="none stated; videos under the terms of the sets that they come from",
        labels="onethinker_sft_video.json",
        media="the archives of the set, unpacked, one folder per data set",
        hub=(("OneThink/OneThinker-train-data", ("*",)),),
    ),
)

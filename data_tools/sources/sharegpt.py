"""ShareGPT conversations of one question and one answer: labels of CameraBench, reasoning chains of others.

A chain is an answer that holds <answer> tags. CameraBench's training labels are given on request only; their form is
read as LLaMA-Factory would, with the keys of either dialect.
"""

from typing import Any

from pydantic import AliasChoices, Field

from data_tools.sample import RecordError
from data_tools.sources.files import json_or_lines
from data_tools.sources.source import Item, Record, Source, by_option, inner_answer, plain_question, yes_or_no

_OPTIONS = "\nOptions:\n"


class Turn(Record):
    role: str = Field(validation_alias=AliasChoices("role", "from"))
    content: str = Field(validation_alias=AliasChoices("content", "value"))


class Conversation(Record):
    """`messages` or `conversations`, and `videos` or `video`."""

    messages: list[Turn] = Field(validation_alias=AliasChoices("messages", "conversations"))
    videos: list[str] | str | None = Field(None, validation_alias=AliasChoices("videos", "video"))
    images: list[str] | str | None = Field(None, validation_alias=AliasChoices("images", "image"))

    def fields(self, item: Item) -> dict[str, Any]:
        if self.images and not self.videos:
            raise RecordError("images", "is about images; only videos are taken")
        videos = [self.videos] if isinstance(self.videos, str) else self.videos or []
        if len(videos) != 1:
            raise RecordError("videos", f"holds {len(videos)}; only questions about one video are taken")
        turns = [turn for turn in self.messages if turn.role != "system"]
        if [turn.role for turn in turns] not in (["user", "assistant"], ["human", "gpt"]):
            raise RecordError(
                "messages", f"turns of {[turn.role for turn in turns]} instead of one question, one answer"
            )
        question, answer = plain_question(turns[0].content), turns[1].content.strip()
        question, _, below = question.partition(_OPTIONS)
        lines = below.splitlines()
        options = [line for number, line in enumerate(lines) if line.startswith(f"{chr(ord('A') + number)}.")]
        rest = "\n".join(lines[len(options) :]).strip()
        return {
            "video": videos[0],
            "question": question,
            "chain": answer if "<answer>" in answer else None,
            "extras": {"published_instruction": rest} if rest else {},
            **_answered(options, inner_answer(answer)),
        }


def _answered(options: list[str], answer: str) -> dict[str, Any]:
    if options:
        return by_option(options, answer)
    if answer.rstrip(".").casefold() in ("yes", "no"):
        return yes_or_no(answer)
    return {"task": "open_ended", "answer": answer}


SOURCES = (
    Source(
        name="camerabench_train",
        title="CameraBench's training labels: balanced VQA (38,672), captions, unbalanced VQA",
        items=json_or_lines,
        record=Conversation,
        licence="on request from its authors",
        labels="cam_motion/balanced_vqa.json, captionset.json or imb_raw.json",
        media="videos.zip, unpacked; paths as in the labels",
        hub=(("chancharikm/cambench_train_videos", ("*",)),),
    ),
    Source(
        name="camreasoner_sft",
        title="CamReasoner's SFT set: 18k reasoning chains",
        items=json_or_lines,
        record=Conversation,
        licence="none stated (paper: CC-BY-NC-SA-4.0)",
        labels="camerabench_sft.json",
        media="video/<name>.mp4",
        hub=(("chancharikm/cambench_train_videos", ("*",)),),
    ),
    Source(
        name="onethinker_sft",
        title="OneThinker, SFT set of problems with reasoning chains",
        items=json_or_lines,
        record=Conversation,
        licence="none stated; videos under the terms of the sets that they come from",
        labels="onethinker_sft_video.json",
        media="the archives of the set, unpacked, one folder per data set",
        hub=(("OneThink/OneThinker-train-data", ("*",)),),
    ),
)

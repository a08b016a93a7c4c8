"""Labels in the form of another trainer's files, read as they are.

ms-swift, EasyR1, verl, TRL and LLaMA-Factory (ShareGPT) name the same things differently: who said what, which media
are shown, and what the right answer is. One record takes the keys of all five.
"""

import re
from ast import literal_eval
from collections.abc import Mapping
from contextlib import suppress
from string import ascii_uppercase
from typing import Any, NamedTuple

from pydantic import AliasChoices, Field, model_validator

from data_tools.sample import IMAGE, VIDEO, FieldError, letters_of
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
from data_tools.sources.readers import any_table
from rewards.reading import number

YOURS = "your own"  # as the licence of files that nobody publishes
_TASKS = ("binary", "choice", "numerical", "open_ended")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_HEADING = re.compile(r"\s*(?:options|choices)\s*[:：]?\s*", re.IGNORECASE)


class Labelled(Record):
    """A question, what it shows, and its answer.

    Asked in `messages`, `conversations` or `prompt` (turns, or text), `problem`, `query` or `question`, with options in
    the text or in `options`; answered in `solution`, `answer`, `reward_model.ground_truth`, or by the assistant: in a
    further turn, `completion` or `response`. Media are `videos`, `video`, `images`, `image`, or parts of the turns. A
    list of picture files in place of a video's path are its frames; `sample_fps` or `fps` is their rate. Alpaca's
    `instruction` and `input` are the question, its `output` is the answer. What is null is as if it were not there.
    """

    asked: Any = Field(
        validation_alias=AliasChoices("messages", "conversations", "prompt", "problem", "query", "question")
    )
    said: Any = Field(None, validation_alias=AliasChoices("completion", "response"))
    solution: Any = Field(None, validation_alias=AliasChoices("solution", "answer", "ground_truth"))
    reward_model: dict[str, Any] | None = None
    options: list[str] | None = None
    videos: Any = Field(None, validation_alias=AliasChoices("videos", "video"))
    images: Any = Field(None, validation_alias=AliasChoices("images", "image"))
    fps: float | None = Field(None, validation_alias=AliasChoices("sample_fps", "fps"))

    @model_validator(mode="before")
    @classmethod
    def _in_one_form(cls, given: Any) -> Any:
        """Alpaca's question is in two parts. MMMU has a column for each image, `image_1` to `image_7`, and options as a
        list in a string.
        """
        if not isinstance(given, dict):
            return given
        given = {key: value for key, value in given.items() if value is not None}  # columns of other records
        if given.get("history"):
            raise ValueError("history: holds earlier turns; only one question and at most one answer are taken")
        if "instruction" in given:
            asked = [str(given[key]) for key in ("instruction", "input") if given.get(key)]
            given = {"query": "\n".join(asked), "response": given.get("output"), **given}
        if not given.keys() & {"image_1", "options"}:
            return given
        columns = [given[key] for number in range(1, 8) if given.get(key := f"image_{number}")]
        options = given.get("options")
        if isinstance(options, str) and options.startswith("["):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # by how it is nested
                options = literal_eval(options)
        return {"images": columns, **given, "options": options} if columns else {**given, "options": options}

    def fields(self, item: Item) -> dict[str, Any]:
        texts, inside = _turns(self.asked, "user")
        said, _ = _turns(self.said, "assistant")
        answers = [text for role, text in (*texts, *said) if role == "assistant"]
        questions = [text for role, text in texts if role == "user"]
        if len(questions) != 1 or len(answers) > 1:
            roles = [role for role, _ in (*texts, *said)]
            raise FieldError("messages", f"turns of {roles} instead of one question and at most one answer")
        ruled = (self.reward_model or {}).get("ground_truth") if self.solution is None else self.solution
        solution = ruled if ruled is not None else next(iter(answers), None)
        if solution is None:
            raise FieldError("solution", "is missing: neither the record nor an assistant's turn has the right answer")
        if isinstance(solution, bool) or not isinstance(solution, str | int | float):
            raise FieldError("solution", f"{str(solution)[:80]} is neither text nor a number")
        question, options, rest = (questions[0], self.options, "") if self.options else split_options(questions[0])
        shown = _shown(
            question,
            options,
            _videos(self.videos, self.fps) + inside["video"],
            _paths(self.images, "images") + inside["image"],
        )
        return {
            **shown,
            "chain": next((text for text in answers if "<answer>" in text), None),
            "extras": {"published_instruction": rest} if rest else {},
            **answered(shown.pop("options"), inner_answer(str(solution))),
        }


class Own(Labelled):
    """The same with an `id` of its own, where the file has one."""

    id: str | int | None = None

    def fields(self, item: Item) -> dict[str, Any]:
        return ({} if self.id is None else {"id": str(self.id)}) | super().fields(item)


def _turns(said: Any, role: str) -> tuple[list[tuple[str, str]], dict[str, list[Any]]]:
    """Role and text of each turn but the system's, and the media that stand in the turns.

    Args:
        role: of a text that is no list of turns.
    """
    media: dict[str, list[Any]] = {"video": [], "image": []}
    if said is None:
        return [], media
    if isinstance(said, str):
        return [(role, said)], media
    turns = []
    for turn in said if isinstance(said, list) else [said]:
        if not isinstance(turn, Mapping):
            raise FieldError("messages", f"holds {str(turn)[:80]!r} instead of a turn")
        name = _ROLES.get(str(turn.get("role", turn.get("from"))))
        if name is None:
            raise FieldError(
                "messages", f"a turn of {turn.get('role', turn.get('from'))!r}; only of user and assistant are taken"
            )
        if name != "system":
            turns.append((name, _text(turn.get("content", turn.get("value")), media)))
    return turns, media


def _text(content: Any, media: dict[str, list[Any]]) -> str:
    """Of a turn: text, or parts of text and media; a placeholder stands where one shows a medium."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif isinstance(kind, str) and kind in media:
            shown = [part] if _path_in(part) is not None else []
            media[kind] += _videos(shown) if kind == "video" else _paths(shown, "images")
            parts.append(VIDEO if kind == "video" else IMAGE)
        else:
            raise FieldError("messages", f"holds {str(part)[:80]!r}; only text, video and image are taken")
    return "".join(parts)


class Frames(NamedTuple):
    """A video given as the files of its frames; the rate, None where the record does not say it."""

    paths: list[str]
    fps: float | None


def _videos(media: Any, fps: float | None = None) -> list[str | Frames]:
    """Videos of a record's key or of a part of a turn.

    Args:
        fps: of the frames of those that do not say it themselves.
    """
    if isinstance(media, list) and are_frames(media):
        media = [media]
    videos: list[str | Frames] = []
    for medium in [] if media is None else media if isinstance(media, list) else [media]:
        path, rate = medium, fps
        if isinstance(medium, Mapping):
            path = _path_in(medium)
            rate = next((medium[key] for key in ("sample_fps", "fps") if medium.get(key)), fps)
        if isinstance(path, list):
            videos.append(Frames(_paths(path, "videos"), rate))
        else:
            videos += _paths(medium, "videos")
    return videos


def _paths(media: Any, field: str) -> list[str]:
    """Paths of a list of paths, of a path, or of what holds one."""
    paths = []
    for medium in [] if media is None else media if isinstance(media, list) else [media]:
        path = _path_in(medium) if isinstance(medium, Mapping) else medium
        if isinstance(path, list):
            raise FieldError(field, "holds a list of files: the frames of a video stand under `videos`")
        if not isinstance(path, str):
            raise FieldError(field, "holds something else than paths of files: write the files, and their paths")
        paths.append(path)
    return paths


def _path_in(medium: Mapping[str, Any]) -> Any:
    return next((medium[key] for key in ("video", "image", "path", "url") if medium.get(key)), None)


def _shown(question: str, options: list[str], videos: list[str | Frames], images: list[str]) -> dict[str, Any]:
    if images and not videos:
        return about_images(question, options, images)
    if len(videos) != 1 or images:
        raise FieldError(
            "videos",
            f"holds {len(videos)} beside {len(images)} image(s); only questions about one video, or images, are taken",
        )
    (video,) = videos
    shown = {"video": video} if isinstance(video, str) else {"frames": video.paths, "fps": video.fps}
    return shown | {"question": plain_question(question), "options": options}


def split_options(text: str) -> tuple[str, list[str], str]:
    """Question, options and what follows them, of a text that lists options by letter, a line each.

    Example:
        >>> split_options("Which way?\\nOptions:\\nA. Left\\nB. Right\\nAnswer by the letter.")
        ('Which way?', ['A. Left', 'B. Right'], 'Answer by the letter.')
        >>> split_options("What does the sign say?")
        ('What does the sign say?', [], '')
    """
    lines = text.splitlines()
    for first in range(len(lines)):
        last = first
        while last < len(lines) and letters_of(lines[first : last + 1]) == ascii_uppercase[: last + 1 - first]:
            last += 1
        if last - first > 1:
            above = lines[:first]
            if above and _HEADING.fullmatch(above[-1]):
                above.pop()
            return "\n".join(above).strip(), lines[first:last], "\n".join(lines[last:]).strip()
    return text, [], ""


def answered(options: list[str], answer: str) -> dict[str, Any]:
    """Task, options and answer: a choice where there are options, else yes or no, a number, or words.

    Raises:
        FieldError: an answer that names no option, or a letter where there are no options.
    """
    if options:
        return by_option(options, answer)
    if re.fullmatch(r"[(]?[A-Za-z][).]?", answer):
        raise FieldError("answer", f"{answer!r} is a letter, and the question has no options, a line each")
    if answer.rstrip(".").casefold() in ("yes", "no"):
        return yes_or_no(answer)
    task = "numerical" if number(answer) is not None else "open_ended"
    return {"task": task, "answer": answer}


def _own(name: str, trainer: str, labels: str) -> Source:
    title, media = f"labels in the form of {trainer}", "as the paths say, under data.media_root"
    return Source(name, title, any_table, Own, _TASKS, YOURS, labels, media)


SOURCES = (
    _own("ms_swift", "ms-swift", "messages, videos, and solution or an assistant's turn"),
    _own("easyr1", "EasyR1", "problem, answer, and videos or images"),
    _own("verl", "verl", "prompt, videos or images, reward_model.ground_truth"),
    _own("trl", "TRL", "messages, or prompt and completion, with media as parts or columns"),
    _own("sharegpt", "LLaMA-Factory", "conversations or messages, and videos or images"),
    _own("alpaca", "LLaMA-Factory", "instruction, input and output, and videos or images"),
)

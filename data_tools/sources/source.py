"""What a source is: how its published files fall into records, and what sample a record is."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from data_tools.sample import RecordError
from rewards.tasks import chosen_option

NO_YES = ["No", "Yes"]  # the order in which CamReasoner's files show them
PLACE_HOLDERS = ("<video>", "<image>", "<audio>")  # an engine would look for a file to each of them


class SourceError(ValueError):
    """A file that is not what its source publishes; the message names file, record, field and the keys expected."""


@dataclass(frozen=True)
class Item:
    """What becomes one sample: where it stands, and the content found there, a fault in place of an unreadable one."""

    file: Path
    place: str
    content: Any


class Record(BaseModel):
    """The keys of a published record that a sample is made of; others are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    def fields(self, item: Item) -> dict[str, Any]:
        """The sample's fields, without source and split; `id` where the source has unique ones.

        Raises:
            RecordError: a record that is no sample, with the field and the reason.
        """
        raise NotImplementedError


class Items(Protocol):
    def __call__(self, path: Path) -> Iterator[Item]:
        """The items of a published file, or of all files of a folder, in order, one at a time in memory."""


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
        name: as recipes and commands give it.
        title: what it is, in a line.
        items, record: its format.
        hub: where labels and videos lie on the Hugging Face hub: (repository id of a dataset, glob patterns) pairs.
        licence: as its publisher states it.
        labels, media: the files of labels, and how videos must lie under the media root.
    """

    name: str
    title: str
    items: Items
    record: type[Record]
    licence: str
    labels: str
    media: str
    hub: tuple[tuple[str, tuple[str, ...]], ...] = ()


# ---------------------------------------------------------------- what several formats share

_ANSWER = re.compile(r".*<answer>(.*?)</answer>", re.DOTALL)
_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


def inner_answer(text: str) -> str:
    """What the last <answer> of a text holds; the text itself where it has none."""
    match = _ANSWER.match(text)
    return (match[1] if match else text).strip()


def plain_options(options: Sequence[str]) -> list[str]:
    """Option texts without the letters in front of them ("A. No", "(A) No").

    Raises:
        RecordError: letters that are not A, B, C ... in order.
    """
    lettered = [_LETTERED.fullmatch(option.strip()) for option in options]
    if not all(lettered):
        return [option.strip() for option in options]
    letters = "".join(match[1] for match in lettered)
    if letters != ascii_uppercase[: len(options)]:
        raise RecordError("options", f"lettered {', '.join(letters)} instead of A, B, C ... in order")
    return [match[2].strip() for match in lettered]


def by_option(options: Sequence[str], answer: str) -> dict[str, Any]:
    """Task, options and the letter of the right one; a choice between yes and no is binary.

    Raises:
        RecordError: an answer that names no option.
    """
    options = plain_options(options)
    chosen = chosen_option(answer, options)
    if chosen is None:
        raise RecordError("answer", f"{answer[:80]!r} names none of the options {options}")
    task = "binary" if {option.casefold() for option in options} == {"no", "yes"} else "choice"
    return {"task": task, "options": options, "answer": ascii_uppercase[chosen]}


def yes_or_no(answer: str) -> dict[str, Any]:
    """The same for an answer "Yes" or "No" to a question without options."""
    return by_option(NO_YES, answer)


def plain_question(text: str) -> str:
    """The question without the place-holder of its one clip, which the prompt puts back.

    Raises:
        RecordError: place-holders of further media.
    """
    text = text.replace("<video>", "", 1).strip()
    for holder in PLACE_HOLDERS:
        if holder in text:
            raise RecordError("question", f"holds {holder}; only questions about one video are taken")
    return text

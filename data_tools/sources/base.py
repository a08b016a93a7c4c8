"""What a source is: how its published files fall into records, and what sample a record is."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from data_tools.sample import IMAGE, PICTURES, PLACEHOLDERS, VIDEO, FieldError, letters_of, without_letters
from rewards.errors import UserError
from rewards.reading import chosen_option

NO_YES = ["No", "Yes"]  # the order in which CamReasoner's files show them


class SourceError(UserError):
    """A file that does not have its source's format; the message names file, record, field and the expected keys."""


@dataclass(frozen=True)
class Item:
    """What becomes one sample: its file and place, and its content, or a FieldError where that is unreadable."""

    file: Path
    place: str
    content: Any


class Record(BaseModel):
    """The keys of a published record that a sample is made of; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    def fields(self, item: Item) -> dict[str, Any]:
        """The sample's fields, without source and split; `id` where the source has unique ones.

        Raises:
            FieldError: a record that is not a valid sample, with the field and the reason.
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
        tasks: that its records can have.
        hub: where labels and videos lie on the Hugging Face hub: (repository id of a dataset, glob patterns) pairs.
        licence: as its publisher states it.
        labels, media: the files of labels, and how videos must lie under the media root.
    """

    name: str
    title: str
    items: Items
    record: type[Record]
    tasks: tuple[str, ...]
    licence: str
    labels: str
    media: str
    hub: tuple[tuple[str, tuple[str, ...]], ...] = ()


# ---------------------------------------------------------------- shared by several formats


_ANSWER = re.compile(r".*<answer>(.*?)</answer>", re.DOTALL)


def inner_answer(text: str) -> str:
    """Content of the last <answer> of a text; the text itself where it has none."""
    match = _ANSWER.match(text)
    return (match[1] if match else text).strip()


def plain_options(options: Sequence[str]) -> list[str]:
    """Option texts without the letters in front of them ("A. No", "(A) No").

    Raises:
        FieldError: letters that are not A, B, C ... in order.
    """
    letters = letters_of(options)
    if letters and letters != ascii_uppercase[: len(options)]:
        raise FieldError("options", f"lettered {', '.join(letters)} instead of A, B, C ... in order")
    return [option.strip() for option in without_letters(options)]


def by_option(options: Sequence[str], answer: str) -> dict[str, Any]:
    """Task, options and the letter of the right one; a choice between yes and no is binary.

    Raises:
        FieldError: an answer that names no option.
    """
    options = plain_options(options)
    chosen = chosen_option(answer, options)
    if chosen is None:
        raise FieldError("answer", f"{answer[:80]!r} names none of the options {options}: give its letter or its text")
    task = "binary" if {option.casefold() for option in options} == {"no", "yes"} else "choice"
    return {"task": task, "options": options, "answer": ascii_uppercase[chosen]}


def yes_or_no(answer: str) -> dict[str, Any]:
    """The same for an answer "Yes" or "No" to a question without options."""
    return by_option(NO_YES, answer)


def from_zero(spans: Sequence[Sequence[float]]) -> list[list[float]]:
    """Spans whose starts are not before the clip's: some labels round down to -0.1 s.

    Example:
        >>> from_zero([[-0.1, 11.0], [12.0, 13.5]])
        [[0.0, 11.0], [12.0, 13.5]]
    """
    return [[max(0.0, span[0]), *span[1:]] if span else [] for span in spans]


def before_zero(spans: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Extras of a record whose spans `from_zero` changed: as they were published, for the metric."""
    return {"before_zero": [list(span) for span in spans]} if any(span and span[0] < 0 for span in spans) else {}


def plain_question(text: str) -> str:
    """The question without the placeholder of its one clip, which the prompt adds again.

    Raises:
        FieldError: placeholders of further media.
    """
    text = text.replace(VIDEO, "", 1).strip()
    for holder in PLACEHOLDERS:
        if holder in text:
            raise FieldError("question", f"holds {holder}; only questions about one video, or about images, are taken")
    return text


def are_frames(paths: Sequence[Any]) -> bool:
    """Whether a list under a key of videos is one video, given as the picture files of its frames."""
    return len(paths) > 1 and all(isinstance(path, str) and path.lower().endswith(PICTURES) for path in paths)


def about_images(question: str, options: Sequence[str], images: Sequence[str]) -> dict[str, Any]:
    """Question, options and images, with a placeholder where each image stands; with none where all stand in front.

    Args:
        question, options: with placeholders `<image>`, or `<image 1>`, `<image 2>` ... by number (MMMU), or without.

    Raises:
        FieldError: placeholders of other media, of more or fewer images, or of one that is not there.

    Example:
        >>> about_images("Is <image 2> wider than <image 1>?", ["No", "Yes"], ["a.png", "b.png"])
        {'question': 'Is <image> wider than <image>?', 'options': ['No', 'Yes'], 'images': ['b.png', 'a.png']}
        >>> about_images("<image> Which shot size?", [], ["a.png"])
        {'question': 'Which shot size?', 'options': [], 'images': ['a.png']}
    """
    texts, order = [question, *options], list[int]()
    if not any(IMAGE in text for text in texts):
        texts, order = _in_order(texts, len(images))
    whole = "\n".join(texts)
    if other := next((holder for holder in PLACEHOLDERS if holder != IMAGE and holder in whole), None):
        raise FieldError("question", f"holds {other}, but shows images")
    if whole.count(IMAGE) not in (0, len(images)):
        raise FieldError("images", f"are {len(images)} for {whole.count(IMAGE)} placeholders {IMAGE}")
    shown = [images[place] for place in order] if order else list(images)
    in_front = re.match(rf"(?:{IMAGE}\s*)*", texts[0])
    if in_front and in_front[0].count(IMAGE) == len(images):  # where the prompt puts them anyway
        texts[0] = texts[0][in_front.end() :]
    elif len(set(texts[1:])) < len(options):
        texts[1:] = _numbered(texts[1:], texts[0].count(IMAGE))
    return {"question": texts[0].strip(), "options": texts[1:], "images": shown}


def _in_order(texts: Sequence[str], images: int) -> tuple[list[str], list[int]]:
    """Texts with plain placeholders in place of numbered ones, and the images in the order in which they are shown.

    Those without a placeholder stand in front. One that is named again is shown once, and then told by its place.
    """
    numbers = [int(number) for text in texts for number in _NUMBERED.findall(text)]
    if wrong := next((number for number in numbers if not 1 <= number <= images), None):
        raise FieldError("question", f"holds <image {wrong}>, of {images} image(s)")
    order = [place for place in range(images) if place + 1 not in numbers] if numbers else []
    before = IMAGE * len(order)

    def shown(match: re.Match[str]) -> str:
        place = int(match[1]) - 1
        if place in order:
            return f"image {order.index(place) + 1}"
        order.append(place)
        return IMAGE

    first, *others = [_NUMBERED.sub(shown, text) for text in texts]
    return [before + first, *others], order


def _numbered(options: Sequence[str], before: int) -> list[str]:
    """Options that are an image alone with its place: of equal options either is right, and these are not equal.

    Args:
        before: images that are shown before.
    """
    numbered = []
    for option in options:
        before += option.count(IMAGE)
        numbered.append(f"image {before}: {IMAGE}" if option.strip() == IMAGE else option)
    return numbered


_NUMBERED = re.compile(r"<image (\d+)>")

"""The one parser of model responses, shared by synthesis, SFT export, reward, advantage and evaluation.

A response is well formed if every tag of its schema appears exactly once, in order, not nested, not empty, with only
white space outside (CamReasoner, section 3.2.2, "Format Reward"; made strict, since a regular
expression over the whole text also accepts repeated and empty tags).
"""

import re
from dataclasses import dataclass, field
from itertools import islice

SCHEMAS: dict[str, tuple[str, ...]] = {
    "ota": ("observation", "think", "answer"),  # CamReasoner, VideoP2R
    "think_answer": ("think", "answer"),  # VideoChat-R1
    "think_answer_glue": ("think", "answer", "glue"),  # VideoChat-R1, grounded QA
    "answer": ("answer",),  # VideoChat-R1 without thinking
    "answer_glue": ("answer", "glue"),
}
TAG = re.compile(r"<(/?)(observation|think|answer|glue)>")


@dataclass(frozen=True)
class ParsedResponse:
    """Texts of a well-formed response, or the reason why it is malformed.

    Attributes:
        ok: whether the response follows its schema.
        error: why not; None when `ok`.
        parts: tag name -> text between its tags, stripped; empty when malformed.
        spans: tag name -> (start, end) characters of that text in the response, tags excluded, not stripped.
    """

    ok: bool
    error: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def observation(self) -> str | None:
        return self.parts.get("observation")

    @property
    def think(self) -> str | None:
        return self.parts.get("think")

    @property
    def answer(self) -> str | None:
        return self.parts.get("answer")

    @property
    def glue(self) -> str | None:
        return self.parts.get("glue")


def parse(text: str, schema: str = "ota") -> ParsedResponse:
    """Parse `text` (the response alone, without its prompt) by `schema`, in linear time.

    Raises:
        KeyError: unknown schema. Never because of the text.

    Example:
        >>> parsed = parse("<think>It grows.</think> <answer>zoom in</answer>", "think_answer")
        >>> parsed.answer, parsed.spans["answer"]
        ('zoom in', (33, 40))
        >>> parse("<answer>zoom in</answer>", "think_answer").error
        'missing <think>'
    """
    tags = SCHEMAS[schema]
    # One tag more than a well-formed response has is enough: a megabyte of tags costs no more than ten.
    found = list(islice(TAG.finditer(text), 2 * len(tags) + 1))
    expected = [closing + tag for tag in tags for closing in ("", "/")]
    names = [m[1] + m[2] for m in found]
    if names != expected:
        return ParsedResponse(False, _tag_error(names, expected))

    outside = [(0, found[0].start()), (found[-1].end(), len(text))]
    outside += [(found[i].end(), found[i + 1].start()) for i in range(1, len(found) - 1, 2)]
    if any(text[start:end].strip() for start, end in outside):
        return ParsedResponse(False, "text outside the tags")

    spans = {tag: (found[2 * i].end(), found[2 * i + 1].start()) for i, tag in enumerate(tags)}
    parts = {tag: text[start:end].strip() for tag, (start, end) in spans.items()}
    empty = [tag for tag, part in parts.items() if not part]
    if empty:
        return ParsedResponse(False, f"empty <{empty[0]}>")
    return ParsedResponse(True, None, parts, spans)


def _tag_error(names: list[str], expected: list[str]) -> str:
    for name in names:
        if name not in expected:
            return f"unexpected <{name}>"
        if names.count(name) > 1:  # before "missing": of too many tags, only the first are known
            return f"repeated <{name}>"
    for name in expected:
        if name not in names:
            return f"missing <{name}>"
    return "tags out of order or nested"

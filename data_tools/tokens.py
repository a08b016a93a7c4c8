"""What a model's tokenizer makes of texts: how many tokens they have, and which parts it takes for special ones."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.prompt import Form, without_media
from data_tools.sample import IMAGE, PLACEHOLDERS, VIDEO, FieldError, Sample

if TYPE_CHECKING:
    from data_tools.media.store import Medium
_SPECIAL = re.compile(r"<\|\w+\|>")


class Tokenizer:
    """A model's `tokenizer.json`, without its chat template."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Fast

        self._fast: Any = Fast.from_file(str(path))
        added = self._fast.get_added_tokens_decoder().values()
        self.special = tuple(token.content for token in added if token.special)

    def count(self, text: str) -> int:
        return len(self._fast.encode(text, add_special_tokens=False).ids)


def tokenizer_of(model: str | None) -> Tokenizer | None:
    """The tokenizer of a model folder, or of a hub id that is on this machine; None where it is not at hand."""
    if model is None:
        return None
    path: Any = Path(model, "tokenizer.json")
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(model, "tokenizer.json")
        except HFValidationError:  # a folder that is not there
            return None
    return Tokenizer(Path(path)) if isinstance(path, str | Path) else None


def check_text(field: str, text: str, tokenizer: Tokenizer | None = None) -> None:
    """Check a text that becomes part of a prompt or response.

    Args:
        tokenizer: names the special tokens; without it, all that look like those of chat templates are refused.

    Raises:
        FieldError: it holds what an engine would take for a clip or for a turn of the chat.
    """
    if holder := next((holder for holder in PLACEHOLDERS if holder in text), None):
        raise FieldError(field, f"holds {holder}, which engines replace by a clip")
    if tokenizer is not None:
        special = next((special for special in tokenizer.special if special in text), None)
    else:
        special = found[0] if (found := _SPECIAL.search(text)) else None
    if special:
        raise FieldError(field, f"holds a special token of chat templates: {special}")


def timed(sample: Sample) -> Sample:
    """The sample with a duration, which every clip has once it is made, and no image."""
    return sample if sample.duration or sample.images else sample.model_copy(update={"duration": 1.0})


def check_question(sample: Sample, form: Form, tokenizer: Tokenizer | None = None) -> None:
    """Check all that a prompt takes of a sample.

    Raises:
        FieldError: see `check_text`; or the sample has nothing for a placeholder of the prompt.
    """
    own = IMAGE if sample.images else ""  # placeholders of the sample's own images belong there
    for name, text in (("question", sample.question), *(("options", option) for option in sample.options)):
        check_text(name, text.replace(own, "") if own else text, tokenizer)
    asked = form.messages(timed(sample))[-1]["content"]
    check_text("extras", asked.replace(own, "") if own else asked.removeprefix(VIDEO), tokenizer)


# ---------------------------------------------------------------- lengths


@dataclass(frozen=True)
class Limit:
    """The tokens that a sample may have, clip or images included: of its question, and of a chain that it trains on.

    Attributes:
        key: of the recipe.
        field: of the sample that is blamed.
        announcement: text tokens before each pair of frames.
    """

    key: str
    tokens: int
    field: str
    announcement: int = 0

    def texts(self, sample: Sample, form: Form) -> list[str]:
        """What the sample says, without placeholders of media."""
        chain = [sample.chain or ""] if self.field == "chain" else []
        return [without_media(turn["content"]) for turn in form.messages(sample)] + chain

    def excess(
        self, sample: Sample, shown: "Sequence[Medium]", form: Form, side: int, tokenizer: Tokenizer
    ) -> FieldError | None:
        """Why the sample certainly does not fit: the chat template, which adds a few tokens, is not counted.

        Args:
            shown: the sample's clip or images.
            side: pixels of a visual token's side.
        """
        texts = self.texts(sample, form)
        visual = sum(one.tokens(side, self.announcement) for one in shown)
        if sum(len(text.encode()) for text in texts) + visual <= self.tokens:  # no token is shorter than a byte
            return None
        tokens = sum(map(tokenizer.count, texts)) + visual
        return self.fault(tokens) if tokens > self.tokens else None

    def fault(self, tokens: int) -> FieldError:
        what = "question and clip" if self.field == "chain" else "clip"
        return FieldError(self.field, f"has {tokens} tokens with its {what}, more than {self.key}={self.tokens}")


Limits = Mapping[str, Limit]  # split -> limit

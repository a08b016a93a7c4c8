"""Which samples fit `sft.cutoff_len` and `rl.max_prompt_length`, their clip included, by the model's own tokenizer.

LLaMA-Factory would cut the others, clips too: cut visual tokens end the training in the step that draws them, and a cut
chain teaches responses without an answer. verl would end at the step that draws one.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from data_tools.files import whole_file, whole_lines
from data_tools.prompt import without_media
from data_tools.quarantine import Quarantine, Rejected
from data_tools.sample import FieldError, Sample, read_samples
from data_tools.tokens import Tokenizer, tokenizer_of
from launch.engines.families import FRAMES_PER_PATCH
from launch.errors import LaunchError
from launch.models import model_folder
from launch.planning.sizes import visual_tokens
from launch.run import Run
from launch.samples.labels import limits

FRAME = 64  # tokens of the chat template around the texts, at most
MARKS = 2  # tokens before and after a clip or an image
NAMES = {"sft": "chains", "rl": "prompts"}


class Lengths:
    """Tokens of the samples of a split with their clip: two bounds first, since the exact number takes an import of
    transformers, of 15 s, and a look into the clip."""

    def __init__(self, run: Run, split: str) -> None:
        self._run, self._form, self._longest = run, run.recipe.form, visual_tokens(run.recipe)
        self._chain, self._limit = split == "sft", limits(run.recipe)[split]

    @cached_property
    def _words(self) -> Tokenizer | None:
        return tokenizer_of(self._run.base_model)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        folder, trusted = model_folder(self._run.base_model), self._run.recipe.model.trust_remote_code
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)

    def at_most(self, sample: Sample) -> int:
        """A bound that needs neither tokenizer nor clip: no token is shorter than a byte."""
        text = "".join(turn["content"] for turn in self._turns(sample))
        return len(text.encode()) + self._longest + FRAME

    def at_most_in_words(self, sample: Sample) -> int | None:
        """A closer bound, by the model's tokenizer.json; None where the model has none."""
        if self._words is None:
            return None
        words = sum(self._words.count(without_media(turn["content"])) for turn in self._turns(sample))
        return words + MARKS * len(sample.media) + self._longest + FRAME

    def of(self, sample: Sample) -> int:
        """The tokens that the engine makes of question, clip and, in SFT, chain."""
        turns, asks = self._turns(sample), not self._chain
        settings = {"chat_template": self._run.recipe.model.chat_template, "add_generation_prompt": asks}
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, **settings)
        words = len(self._tokenizer.encode(without_media(text), add_special_tokens=False))
        return words + MARKS * len(sample.media) + self._visual(sample)

    def fault(self, sample: Sample) -> FieldError | None:
        """Why a sample is too long."""
        for bound in (self.at_most, self.at_most_in_words):
            if (most := bound(sample)) is not None and most <= self._limit.tokens:
                return None
        tokens = self.of(sample)
        return self._limit.fault(tokens) if tokens > self._limit.tokens else None

    def _turns(self, sample: Sample) -> list[dict[str, str]]:
        chain = [{"role": "assistant", "content": sample.chain or ""}] if self._chain else []
        return [*self._form.messages(sample), *chain]

    def _visual(self, sample: Sample) -> int:
        import av
        from PIL import Image

        side = self._run.recipe.budget.token_side
        if sample.video is None:
            sizes = [Image.open(self._run.data / name).size for name in sample.images]
            return sum((width // side) * (height // side) for width, height in sizes)
        with av.open(str(self._run.data / sample.video)) as file:
            stream = file.streams.video[0]
            pairs = -(-stream.frames // FRAMES_PER_PATCH)
            tokens = pairs * (stream.width // side) * (stream.height // side)
        return tokens + pairs * self._limit.announcement


def too_long(run: Run, split: str, path: Path, resumed: bool) -> tuple[set[str], int]:
    """Ids of the samples of a split that are too long, and how many samples it has.

    They are listed in `path`, which is not there where none is too long. A stage that resumes leaves out those that it
    left out at its start, so that a higher limit does not change what it trains on half-way.

    Raises:
        LaunchError: a share above data.max_quarantined is too long.
    """
    source = run.paths.samples(split)
    if resumed and path.exists():
        listed = {json.loads(line)["record"] for line in whole_lines(path)}
        return listed, sum(1 for _ in read_samples(source))
    lengths, ids, total = Lengths(run, split), set[str](), 0
    with whole_file(path) as out:
        quarantine = Quarantine(out)
        for sample in read_samples(source):
            total += 1
            if fault := lengths.fault(sample):
                quarantine.add(Rejected(str(source), sample.id, fault.field, fault.reason))
                ids.add(sample.id)
    if not ids:
        path.unlink()
    most, limit = run.recipe.data.max_quarantined, limits(run.recipe)[split]
    if len(ids) > most * total:
        raise LaunchError(
            f"{len(ids)} of {total} {NAMES[split]} are longer than {limit.key}={limit.tokens}, more than "
            f"data.max_quarantined={most:g}: see {path}"
        )
    return ids, total

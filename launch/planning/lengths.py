"""How many samples of the label files are longer than their limits, as stage data will find when it has the clips."""

from collections.abc import Iterator, Sequence
from itertools import islice

from data_tools.labels import LabelFile, Wanted, read_split
from data_tools.sample import FieldError, Sample
from data_tools.tokens import timed
from launch.planning.sizes import visual_tokens
from launch.recipe import Recipe
from launch.samples.labels import files_of, limits, wanted

READ = 10_000  # samples of a split that are looked at: a plan takes seconds


def length_rows(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A row for each split that holds samples which are too long, where files and tokenizer are on this machine."""
    taken = wanted(recipe)
    if recipe.data.rendered is not None or taken.tokenizer is None:
        return
    for split, limit in limits(recipe).items():
        files = [file for file in files_of(recipe, split) if file.path.exists()]
        certain, possible, count = too_long(taken, files, split, visual_tokens(recipe)) if files else (0, 0, 0)
        if possible:
            of = f"the first {READ:,}" if count == READ else f"{count:,}"
            beside = f", {possible:,} beside the longest clip" if possible > certain else ""
            yield f"too long ({split})", f"{certain:,} of {of}{beside}: more than {limit.key}={limit.tokens}, left out"


def too_long(taken: Wanted, files: Sequence[LabelFile], split: str, clip: int) -> tuple[int, int, int]:
    """Samples whose texts alone are too long, those that are beside a clip of so many tokens, and all looked at."""
    certain = possible = count = 0
    for sample in islice(read_split(files, split), READ):
        if taken.takes(split, sample):
            count += 1
            tokens = _tokens(taken, split, sample, clip)
            certain += tokens > taken.limits[split].tokens
            possible += tokens + clip > taken.limits[split].tokens
    return certain, possible, count


def _tokens(taken: Wanted, split: str, sample: Sample, clip: int) -> int:
    """Tokens of a sample's texts; 0 where they fit in any case, or stage data leaves the sample out for its texts."""
    limit, tokenizer = taken.limits[split], taken.tokenizer
    assert tokenizer is not None
    try:
        texts = limit.texts(timed(taken.turned(sample) if split == "sft" else sample), taken.form)
    except FieldError:
        return 0
    if sum(len(text.encode(errors="replace")) for text in texts) + clip <= limit.tokens:
        return 0
    return sum(map(tokenizer.count, texts))

"""Published data sets as samples: one small module per format, each record a sample or a line of the quarantine."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import ValidationError

from data_tools.sample import RecordError, Sample, first_fault
from data_tools.sources import camerabench, problems, sharegpt, videochat_r1
from data_tools.sources.source import Item, Source, SourceError

SOURCES: dict[str, Source] = {
    source.name: source for module in (camerabench, problems, sharegpt, videochat_r1) for source in module.SOURCES
}


@dataclass(frozen=True)
class Rejected:
    """A line of a quarantine: the file and the record in it, the field, and what is wrong with it."""

    file: str
    record: str
    field: str
    reason: str

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def named(name: str) -> Source:
    """The source of that name.

    Raises:
        SourceError: naming those that there are.
    """
    if name not in SOURCES:
        raise SourceError(f"{name!r} is no source; choose of {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def read(
    source: Source, path: Path, split: str, quarantine: Callable[[Rejected], None], folder: str = ""
) -> Iterator[Sample]:
    """Stream the samples of a published file, or of a folder of them, in order.

    Each record gives a sample or one call of `quarantine`, except those that hold several questions: they count as
    many.

    Args:
        split: of all samples.
        folder: where the source's videos lie under the media root; put before the published paths.

    Raises:
        SourceError: the file is missing or broken, or its first record is not what the source publishes.
    """
    for number, item in enumerate(source.items(path)):
        try:
            yield _sample(source, item, split, folder)
        except ValidationError as error:
            drifted = error.errors(include_url=False, include_input=False)[0]["type"] in ("missing", "model_type")
            fault = first_fault(error)
            if number == 0 and drifted:
                keys = ", ".join(source.record.model_fields)
                raise SourceError(
                    f"{item.file}: record {item.place}: {fault}. {source.name} publishes records with the keys {keys}: "
                    "is it another set's file, or has its form changed?"
                ) from error
            quarantine(Rejected(str(item.file), item.place, fault.field, fault.reason))
        except RecordError as fault:
            quarantine(Rejected(str(item.file), item.place, fault.field, fault.reason))


def _sample(source: Source, item: Item, split: str, folder: str) -> Sample:
    if isinstance(item.content, RecordError):
        raise item.content
    fields: dict[str, Any] = source.record.model_validate(item.content).fields(item)
    if fields["video"]:
        fields["video"] = str(PurePosixPath(folder, fields["video"]))  # an absolute one stays so, and is refused
    own = {"id": f"{item.file.stem}-{item.place}", "source": source.name, "split": split}
    return Sample.model_validate(own | fields)


def shuffle_options(sample: Sample, seed: int) -> Sample:
    """The sample with its options in an order drawn from seed and id, so that no letter is a prior.

    A chain that names a letter would name the wrong one: samples with chains keep their order.
    """
    if not sample.options or sample.chain is not None:
        return sample
    rng = np.random.default_rng([seed, *sample.id.encode()])
    options = [sample.options[place] for place in rng.permutation(len(sample.options))]
    letter = chr(ord("A") + options.index(sample.answer_text))
    return sample.model_copy(update={"options": options, "answer": letter})

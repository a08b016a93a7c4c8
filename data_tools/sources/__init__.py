"""Published data sets as samples: one small module per format, each record a sample or a line of the quarantine."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import AliasChoices, ValidationError

from data_tools.quarantine import Rejected
from data_tools.sample import FieldError, Sample, first_fault
from data_tools.sources import camerabench, problems, sharegpt, table, trainers, videochat_r1
from data_tools.sources.base import Item, Record, Source, SourceError
from data_tools.sources.readers import LABELS

SOURCES: dict[str, Source] = {
    source.name: source
    for module in (camerabench, problems, sharegpt, table, trainers, videochat_r1)
    for source in module.SOURCES
}


def named(name: str) -> Source:
    """The source of that name.

    Raises:
        SourceError: naming the known ones.
    """
    if name not in SOURCES:
        raise SourceError(f"{name!r} is not a known source; choose from {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def read_source(
    source: Source,
    path: Path,
    split: str,
    quarantine: Callable[[Rejected], object],
    folder: str = "",
    names: Mapping[Path, str] | None = None,
    root: Path | None = None,
) -> Iterator[Sample]:
    """Stream the samples of a published file, or of a folder of them, in order.

    Each record gives a sample or one call of `quarantine`; a record of several questions counts as several.

    Example:
        >>> import json
        >>> from tempfile import TemporaryDirectory
        >>> content = {"AB": {"duration": 9.0, "timestamps": [[1, 2]], "sentences": ["A door opens."]}}
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "train.json")
        ...     _ = path.write_text(json.dumps(content))
        ...     (sample,) = read_source(named("charades_sta"), path, "rl", print)
        >>> sample.video, sample.spans
        ('AB.mp4', [[1.0, 2.0]])

    Args:
        split: of all samples.
        folder: where the source's videos lie under the media root; put before the published paths.
        names: of the files, for the ids of records that have none; None: by `names_of` this file or folder alone.
        root: the media root, which absolute paths of the file may name.

    Raises:
        SourceError: the file is missing, broken or empty, or its first record is not what the source publishes.
    """
    names = names_of(files_of(path)) if names is None else names
    number = -1
    for number, item in enumerate(source.items(path)):
        try:
            yield _sample(source, item, split, folder, names, root)
        except ValidationError as error:
            drifted = error.errors(include_url=False, include_input=False)[0]["type"] in ("missing", "model_type")
            fault = first_fault(error)
            if number == 0 and drifted:
                has = f" The record has {', '.join(item.content)}." if isinstance(item.content, dict) else ""
                raise SourceError(
                    f"{item.file}: record {item.place}: {fault}.{has} {source.name} publishes records with the keys "
                    f"{_keys(source.record)}: is it another set's file, or has its form changed?"
                ) from error
            quarantine(Rejected(str(item.file), item.place, fault.field, fault.reason))
        except FieldError as fault:
            quarantine(Rejected(str(item.file), item.place, fault.field, fault.reason))
    if number < 0:
        raise SourceError(f"{path}: holds no records")


def _keys(record: type[Record]) -> str:
    """The keys of a record as files spell them."""
    spelt = {name: field.validation_alias or name for name, field in record.model_fields.items()}
    return ", ".join(
        " or ".join(map(str, keys.choices)) if isinstance(keys, AliasChoices) else str(keys) for keys in spelt.values()
    )


def files_of(path: Path) -> list[Path]:
    """The label files of a published file or folder."""
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in LABELS) if path.is_dir() else [path]


def names_of(files: Sequence[Path]) -> dict[Path, str]:
    """File -> its stem, behind the names of as many folders as tell it from the others of the same stem.

    Example:
        >>> list(names_of([Path("a/train.json"), Path("b/train.json"), Path("b/test.json")]).values())
        ['a-train', 'b-train', 'test']
    """
    tails = {
        file: ["-".join(file.with_suffix("").parts[-length:]) for length in range(1, len(file.parts) + 1)]
        for file in files
    }
    counts = Counter(tail for of_file in tails.values() for tail in of_file)
    return {file: next((tail for tail in of_file if counts[tail] == 1), file.name) for file, of_file in tails.items()}


def _sample(
    source: Source, item: Item, split: str, folder: str, names: Mapping[Path, str], root: Path | None
) -> Sample:
    if isinstance(item.content, FieldError):
        raise item.content
    fields: dict[str, Any] = source.record.model_validate(item.content).fields(item)
    if fields.get("video"):
        fields["video"] = _below_root("video", fields["video"], folder, root)
    for several in ("images", "frames"):
        if paths := fields.get(several):
            fields[several] = [_below_root(several, path, folder, root) for path in paths]
    own = {"id": f"{names.get(item.file, item.file.stem)}-{item.place}", "source": source.name, "split": split}
    return Sample.model_validate(own | fields)


def _below_root(field: str, given: str, folder: str, root: Path | None) -> str:
    """A path of a record as samples have it: relative to the media root, and without `file://`.

    Raises:
        FieldError: an absolute one that does not lie in the media root.
    """
    path = PurePosixPath(folder, given.removeprefix("file://"))
    if "://" in given.removeprefix("file://"):
        return given  # an address, which samples refuse
    if not path.is_absolute():
        return str(path)
    for above in (root.absolute(), root.resolve()) if root else ():
        if path.is_relative_to(above):
            return str(path.relative_to(above))
    what = f"which does not lie in the media root {root}" if root else "and media_root= is not given, to be relative to"
    raise FieldError(field, f"{str(path)!r} is an absolute path, {what}")


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

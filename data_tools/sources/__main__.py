"""Turn a published file, or a folder of them, into samples; a quarantine is written beside them.

python -m data_tools.sources FILE source=charades_sta split=rl out=samples.jsonl
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt

from data_tools.cli import Arguments, UsageError, run_command
from data_tools.files import whole_file
from data_tools.quarantine import Quarantine
from data_tools.sample import Sample, write_samples
from data_tools.sources import named, read_source, shuffle_options
from data_tools.sources.base import SourceError


class SourcesArguments(Arguments):
    files: list[Path] = Field(description="the published file, or a folder of them")
    source: str = Field(description="the source's name; docs/data.md lists them")
    split: Literal["sft", "rl", "val", "test"] = Field(description="split of all its samples")
    out: Path = Field(description="JSON Lines of samples; the quarantine is written beside it")
    folder: str = Field("", description="where its videos lie under the media root")
    media_root: Path | None = Field(None, description="folder of the videos, where the file has absolute paths")
    shuffle: NonNegativeInt | None = Field(
        None, description="seed of the order of options; null keeps the published one"
    )


def main(arguments: SourcesArguments) -> int:
    from rich.console import Console

    source, out, seed = named(arguments.source), arguments.out, arguments.shuffle
    if len(arguments.files) != 1:
        raise UsageError(f"give one file or folder, not {len(arguments.files)}")
    (path,), rejected = arguments.files, out.with_name(f"{out.stem}.quarantine.jsonl")
    for written in (out, rejected):
        if written.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"out={out}: {written} is, or lies in, what is read: name another file or folder")
    tasks: Counter[str] = Counter()
    with whole_file(rejected) as lines:
        quarantine = Quarantine(lines)
        samples = read_source(
            source, path, arguments.split, quarantine.add, arguments.folder, root=arguments.media_root
        )
        kept = write_samples(out, _counted(samples, seed, tasks))
    bad = quarantine.count
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{kept + bad} records = {kept} samples in {out} + {bad} in {rejected}", markup=False)
    if kept:
        console.print("  tasks: " + ", ".join(f"{task} {count}" for task, count in tasks.most_common()), markup=False)
    for field, count in quarantine.fields.most_common():
        first = quarantine.first[field]
        console.print(f"  {count:>7}  {field}, first in record {first.record}: {first.reason}", markup=False)
    if not kept:
        out.unlink()
        raise SourceError(f"{path}: none of its records is a sample, and {out} is not written")
    return 0


def _counted(samples: Iterator[Sample], seed: int | None, tasks: Counter[str]) -> Iterator[Sample]:
    for sample in samples:
        tasks[sample.task] += 1
        yield sample if seed is None else shuffle_options(sample, seed)


if __name__ == "__main__":
    run_command(main, SourcesArguments, __doc__)

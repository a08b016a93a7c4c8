"""Turn a published file, or a folder of them, into samples; a quarantine is written beside them.

python -m data_tools.sources FILE source=charades_sta split=rl out=samples.jsonl
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt

from data_tools.cli import Arguments, UsageError, run_command
from data_tools.files import whole_file
from data_tools.quarantine import Quarantine
from data_tools.sample import write_samples
from data_tools.sources import named, read_source, shuffle_options


class SourcesArguments(Arguments):
    files: list[Path] = Field(description="the published file, or a folder of them")
    source: str = Field(description="the source's name; docs/data.md lists them")
    split: Literal["sft", "rl", "val", "test"] = Field(description="split of all its samples")
    out: Path = Field(description="JSON Lines of samples; the quarantine is written beside it")
    folder: str = Field("", description="where its videos lie under the media root")
    shuffle: NonNegativeInt | None = Field(
        None, description="seed of the order of options; null keeps the published one"
    )


def main(arguments: SourcesArguments) -> None:
    from rich.console import Console

    source, out, seed = named(arguments.source), arguments.out, arguments.shuffle
    if len(arguments.files) != 1:
        raise UsageError(f"give one file or folder, not {len(arguments.files)}")
    quarantine_file = out.with_name(f"{out.stem}.quarantine.jsonl")
    with whole_file(quarantine_file) as lines:
        quarantine = Quarantine(lines)
        samples = read_source(source, arguments.files[0], arguments.split, quarantine.add, arguments.folder)
        kept = write_samples(out, (s if seed is None else shuffle_options(s, seed) for s in samples))
    bad = quarantine.count
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{kept + bad} records = {kept} samples in {out} + {bad} in {quarantine_file}", markup=False)


if __name__ == "__main__":
    run_command(main, SourcesArguments, __doc__)

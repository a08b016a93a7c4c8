"""Turn a published file into samples: python -m data_tools.sources NAME FILE --split rl --out samples.jsonl"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from data_tools.sample import write_samples
from data_tools.sources import Rejected, SourceError, named, read, shuffle_options


def main(
    name: Annotated[str, typer.Argument(help="The source's name; docs/data.md lists them.")],
    file: Annotated[Path, typer.Argument(help="The published file, or a folder of them.")],
    split: Annotated[Literal["sft", "rl", "val", "test"], typer.Option(help="Split of all its samples.")],
    out: Annotated[Path, typer.Option(help="JSON Lines of samples; the quarantine is written beside it.")],
    folder: Annotated[str, typer.Option(help="Where its videos lie under the media root.")] = "",
    shuffle: Annotated[
        int | None, typer.Option(min=0, help="Seed of the order of options; as published if none.")
    ] = None,
) -> None:
    """Turn a published file into samples."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    quarantine_file = out.with_name(f"{out.stem}.quarantine.jsonl")
    rejected: int = 0
    try:
        source = named(name)
        out.parent.mkdir(parents=True, exist_ok=True)
        with quarantine_file.open("w", encoding="utf-8") as quarantine:

            def put_aside(line: Rejected) -> None:
                nonlocal rejected
                rejected += 1
                quarantine.write(line.line())

            samples = read(source, file, split, put_aside, folder)
            kept = write_samples(out, (s if shuffle is None else shuffle_options(s, shuffle) for s in samples))
    except (SourceError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    console.print(
        f"{kept + rejected} records = {kept} samples in {out} + {rejected} in {quarantine_file}", markup=False
    )


if __name__ == "__main__":
    typer.run(main)

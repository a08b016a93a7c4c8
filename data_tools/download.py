"""Download a published set from the Hugging Face hub: python -m data_tools.download NAME --to FOLDER"""

from pathlib import Path
from typing import Annotated

import typer

from data_tools.sources import Source, SourceError, named


class DownloadError(RuntimeError):
    """A set that cannot be downloaded; the message says why and what to do."""


def download(source: Source, folder: Path) -> list[Path]:
    """Fetch what the hub has of a source; what is there already is not fetched again, nor a part of a file.

    Raises:
        DownloadError: the hub has nothing of it, does not give it, or cannot be reached.
    """
    from httpx import HTTPError
    from huggingface_hub import snapshot_download

    if not source.hub:
        raise DownloadError(f"{source.name} is not on the hub; get its labels ({source.labels}) from their publisher")
    folders = []
    for repository, patterns in source.hub:
        target = folder / repository.replace("/", "--")
        try:
            snapshot_download(repository, repo_type="dataset", allow_patterns=list(patterns), local_dir=target)
        except (OSError, HTTPError) as error:  # the hub's own errors are OSErrors: offline, gated, not found, cut off
            raise DownloadError(
                f"cannot download the data set {repository} ({type(error).__name__}): it needs a network and, where "
                "its publisher asks for it, your hub login; the same command goes on where it stopped"
            ) from error
        folders.append(target)
    return folders


def main(
    name: Annotated[str, typer.Argument(help="The source's name; docs/data.md lists them.")],
    to: Annotated[Path, typer.Option(help="Where to put it.")] = Path("downloads"),
) -> None:
    """Say what a published set is, and download what the hub has of it."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    try:
        source = named(name)
        for line in (
            source.title,
            f"  on the hub: {', '.join(repository for repository, _ in source.hub) or 'nothing'}",
            f"  licence:    {source.licence}",
            f"  labels:     {source.labels}",
            f"  videos:     {source.media}",
        ):
            console.print(line, markup=False)
        for folder in download(source, to):
            console.print(f"in {folder}; unpack its archives to the places named above", markup=False)
    except (SourceError, DownloadError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)

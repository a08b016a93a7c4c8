"""Describe a published set, and download what the Hugging Face hub has of it.

python -m data_tools.download source=NAME to=FOLDER
"""

from pathlib import Path

from pydantic import Field

from data_tools.cli import Arguments, run_command
from data_tools.sources import named
from data_tools.sources.base import Source
from rewards.errors import UserError


class DownloadError(UserError):
    """A set that cannot be downloaded; the message says why and what to do."""


class DownloadArguments(Arguments):
    source: str = Field(description="the source's name; docs/data.md lists them")
    to: Path = Field(Path("downloads"), description="folder of the download")


def download(source: Source, folder: Path) -> list[Path]:
    """Fetch what the hub has of a source; files and parts of files that are there already are not fetched again.

    Raises:
        DownloadError: the hub has nothing of it, refuses access, or cannot be reached.
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
                "its publisher asks for it, your hub login; the same command resumes where it stopped"
            ) from error
        folders.append(target)
    return folders


def main(arguments: DownloadArguments) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    source = named(arguments.source)
    for line in (
        source.title,
        f"  on the hub: {', '.join(repository for repository, _ in source.hub) or 'nothing'}",
        f"  licence:    {source.licence}",
        f"  labels:     {source.labels}",
        f"  videos:     {source.media}",
    ):
        console.print(line, markup=False)
    for folder in download(source, arguments.to):
        console.print(f"in {folder}; unpack its archives to the places named above", markup=False)


if __name__ == "__main__":
    run_command(main, DownloadArguments, __doc__)

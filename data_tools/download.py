"""Describe a published set, and download what the Hugging Face hub has of it.

python -m data_tools.download source=NAME to=FOLDER
"""

from pathlib import Path

from pydantic import Field

from data_tools.cli import Arguments, run_command
from data_tools.sources import named
from data_tools.sources.base import Source
from rewards.errors import UserError

# Where the labels of benchmarks lie that no source reads: they are evaluated on as published (docs/evaluation.md).
BENCHMARKS = {
    "dream1k": "bytedance/tarsier on GitHub, data/annotations/DREAM-1k.jsonl",
    "mmvu": "yale-nlp/MMVU on the hub",
    "mvbench": "OpenGVLab/MVBench on the hub",
    "refineshot": "wuhang03/RefineShot on GitHub, whose extract.py makes its table of ShotBench's",
    "shotbench": "Vchitect/ShotBench on the hub",
    "tempcompass": "llyx97/TempCompass on GitHub, questions/",
    "vcrbench": "VLM-Reasoning/VCR-Bench on the hub",
    "video_mmmu": "lmms-lab/VideoMMMU on the hub",
    "videomme": "lmms-lab/Video-MME on the hub",
    "vsibench": "nyu-visionx/VSI-Bench on the hub",
}


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
    from data_tools.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if place := BENCHMARKS.get(arguments.source):
        raise DownloadError(
            f"{arguments.source} is a benchmark, not a source: get it from {place}; where its files have to lie: "
            "docs/evaluation.md, and make sets reads them there"
        )
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

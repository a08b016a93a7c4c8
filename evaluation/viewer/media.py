"""Clips and images as the viewer shows them: found below the run's own folders, as small files that browsers play."""

from hashlib import sha256
from pathlib import Path

from data_tools.files import whole_file
from data_tools.media.child import ClipError, clip_path
from data_tools.run_folder import RunFolder
from evaluation.report.clips import IMAGES, preview_of


def find(root: Path, name: str) -> Path:
    """The file that a sample names.

    Raises:
        ClipError: there is none, or it lies outside the media root, be it by a symbolic link. Only the folder `clips`
            of the root may be such a link: to the store of clips that runs share.
    """
    path = clip_path(root, name, links_into=[root / "clips"])
    if not path.is_file():
        raise ClipError("missing", f"{path} is missing")
    return path


def kind(name: str) -> str:
    return "image" if Path(name).suffix.lower() in IMAGES else "video"


def preview_file(run: RunFolder, path: Path) -> Path:
    """The preview of a file, made when it is first asked for.

    Raises:
        RunError: the file cannot be decoded.
    """
    stat = path.stat()
    key = sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:20]
    made = run.watch_clips / (key + (".jpg" if kind(path.name) == "image" else ".mp4"))
    if not made.is_file():
        content = preview_of(path)
        with whole_file(made, "wb") as out:
            out.write(content)
    return made

"""Turn folders of JPEG files into clips: data sets like GOT-10k publish a video as a folder of pictures.

python -m data_tools.frames ~/GOT-10k/train to=~/videochat_r1/got frames=8 fps=2

Each folder with pictures in it becomes TO/<folder's name>.mp4, in the order of the pictures' names. The pictures are
copied as they are, as Motion JPEG: nothing is decoded, and nothing is lost. Folders that cannot become clips are listed
with their reasons in TO/<folder>.quarantine.jsonl: folders = clips + quarantined.
"""

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from data_tools.cli import Arguments, UsageError, run_command
from data_tools.files import whole_file, whole_path
from data_tools.media.child import ClipError
from data_tools.media.pictures import pictures_in
from data_tools.quarantine import Quarantine, Rejected
from rewards.errors import UserError

SUFFIXES = (".jpg", ".jpeg")


class FramesError(UserError):
    """Folders that give no clips; the message names them."""


class FramesArguments(Arguments):
    files: list[Path] = Field(description="a folder of folders of pictures")
    to: Path = Field(description="folder of the clips")
    fps: PositiveFloat = Field(description="pictures per second")
    frames: PositiveInt | None = Field(
        None, description="only so many pictures of each folder, evenly spread, the first and the last among them"
    )


def spread(count: int, wanted: int | None) -> list[int]:
    """Numbers of the pictures that are taken of `count`, the first and the last among them.

    Example:
        >>> spread(100, 8)
        [0, 14, 28, 42, 56, 70, 84, 99]
        >>> spread(3, 8)
        [0, 1, 2]
    """
    if wanted is None or wanted >= count:
        return list(range(count))
    return [number * (count - 1) // max(1, wanted - 1) for number in range(wanted)]


def sequences(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folders under `root` that hold pictures, each with its pictures in order; one folder in memory at a time."""
    for folder, folders, _ in os.walk(root):
        folders.sort()
        if pictures := pictures_in(Path(folder), SUFFIXES):
            yield Path(folder), pictures


def write_clip(pictures: Sequence[Path], target: Path, fps: float) -> None:
    """One clip of the pictures, their bytes unchanged.

    Raises:
        ClipError: one picture alone, one that is none, or pictures of several sizes.
    """
    import av
    from PIL import Image, UnidentifiedImageError

    if len(pictures) < 2:
        raise ClipError("one_frame", f"holds a single picture, {pictures[0].name}")
    rate, size = Fraction(fps).limit_denominator(1000), None
    with whole_path(target) as unfinished, av.open(str(unfinished), "w", format="mp4") as file:
        stream = file.add_stream("mjpeg", rate=rate)
        stream.pix_fmt = "yuvj420p"
        for number, picture in enumerate(pictures):
            try:
                with Image.open(picture, formats=["JPEG"]) as header:
                    its = header.size
            except (UnidentifiedImageError, OSError) as error:
                raise ClipError("undecodable", f"{picture.name} is not a JPEG file") from error
            if size is None:
                stream.width, stream.height = size = its
            if its != size:
                raise ClipError(
                    "shape", f"{picture.name} has {its[0]} x {its[1]} pixels, the first {size[0]} x {size[1]}"
                )
            packet = av.Packet(picture.read_bytes())
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, True
            file.mux(packet)


def main(arguments: FramesArguments) -> None:
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from data_tools.console import Console

    if len(arguments.files) != 1:
        raise UsageError(f"give one folder, not {len(arguments.files)}")
    root, to = arguments.files[0], arguments.to
    if not root.is_dir():
        raise FramesError(f"{root} is not a folder")
    made: dict[str, Path] = {}
    quarantine_file = to / f"{root.absolute().name}.quarantine.jsonl"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    bar = Progress(SpinnerColumn(), TextColumn("clips: {task.completed:,.0f}"), console=console, transient=True)
    with whole_file(quarantine_file) as out, bar:
        quarantine, task = Quarantine(out), bar.add_task("", total=None)
        for folder, pictures in sequences(root):
            if folder.name in made:
                raise FramesError(f"{folder} and {made[folder.name]} would both become {folder.name}.mp4")
            chosen = [pictures[number] for number in spread(len(pictures), arguments.frames)]
            try:
                write_clip(chosen, to / f"{folder.name}.mp4", arguments.fps)
                made[folder.name] = folder
                bar.advance(task)
            except ClipError as error:
                quarantine.add(Rejected(str(root), str(folder.relative_to(root)), "pictures", str(error)))
    if not made and not quarantine.count:
        raise FramesError(f"{root}: no folder in it holds pictures ({', '.join(SUFFIXES)})")
    left_out = quarantine.count
    text = f"{len(made) + left_out} folders = {len(made)} clips in {to} + {left_out} in {quarantine_file}"
    console.print(text, markup=False)


if __name__ == "__main__":
    run_command(main, FramesArguments, __doc__)

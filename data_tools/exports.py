"""Samples as the files of LLaMA-Factory (SFT), verl (RL) and evaluation, with one prompt and the same clips for all.

`export` passes each sample to all files at once: a set of any size takes no more memory than the table of its clips.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.files import whole_file, write_json
from data_tools.media.normalise import Clip
from data_tools.media.stills import Still
from data_tools.media.store import Medium
from data_tools.prompt import Form
from data_tools.sample import FieldError, Sample, sample_line
from rewards.errors import UserError

ROWS = 4096  # of a parquet file that are held in memory
_SIZE = [("resized_height", pa.int64()), ("resized_width", pa.int64())]
_VIDEOS = "videos", pa.struct([("video", pa.string()), ("nframes", pa.int64()), *_SIZE])
_IMAGES = "images", pa.struct([("image", pa.string()), *_SIZE])
Write = Callable[[Sample], object]
ExportFile = AbstractContextManager[Write]


class ExportError(UserError):
    """A sample that an engine could not train on; the message names the record and its field."""


def export(samples: Iterable[Sample], media_root: Path, *files: ExportFile) -> int:
    """Write each sample to all `files`, whole files or none; the number of samples.

    Raises:
        ExportError: no samples, a clip that is missing or empty, or nothing for a placeholder of the prompt.
    """
    count = 0
    with ExitStack() as stack:
        writes = [stack.enter_context(file) for file in files]
        for sample in samples:
            count += 1
            for path in (media_root / name for name in sample.media):
                if not path.is_file():
                    raise ExportError(f"{sample.id}: {sample.shows}: {path} is missing")
                if not path.stat().st_size:
                    raise ExportError(f"{sample.id}: {sample.shows}: {path} is empty")
            try:
                for write in writes:
                    write(sample)
            except FieldError as error:
                raise ExportError(f"{sample.id}: {error}") from error
        if not count:
            raise ExportError("no samples to export")
    return count


@contextmanager
def sample_file(path: Path) -> Iterator[Write]:
    """The samples themselves, as JSON Lines."""
    with whole_file(path) as out:
        yield lambda sample: out.write(sample_line(sample))


@contextmanager
def llamafactory_file(folder: Path, form: Form, name: str = "sft") -> Iterator[Write]:
    """`folder`/`name`.json (sharegpt), registered in dataset_info.json; LLaMA-Factory's `media_dir` is the media root.

    Raises:
        ExportError: a sample without chain.
    """
    with whole_file(folder / f"{name}.json") as out:
        before, pictures = "[\n", False

        def write(sample: Sample) -> None:
            nonlocal before, pictures
            if not sample.chain:
                raise ExportError(f"{sample.id}: chain: SFT needs one")
            record: dict[str, Any] = {
                "messages": [*form.messages(sample), {"role": "assistant", "content": sample.chain}]
            }
            record["videos"] = [] if sample.images else sample.media
            if sample.images:
                record["images"], pictures = sample.images, True
            out.write(before + json.dumps(record, ensure_ascii=False))
            before = ",\n"

        yield write
        out.write("\n]\n")
    info_file = folder / "dataset_info.json"
    info = json.loads(info_file.read_text()) if info_file.exists() else {}
    info[name] = {
        "file_name": f"{name}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "videos": "videos"} | ({"images": "images"} if pictures else {}),
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    write_json(info_file, info)


@contextmanager
def verl_file(path: Path, media_root: Path, clips: Mapping[str, Medium], form: Form) -> Iterator[Write]:
    """The parquet file that verl's RLHFDataset reads; the reward finds the whole sample in `extra_info`.

    `extra_info["sample"]` is the sample as JSON text, since a parquet column would give every row the fields of all
    others; `sample_of` reads it back.

    Args:
        clips: path of a sample's clip or image -> what it holds. Where there are images, each row has a column of them.
    """
    rows: list[dict[str, Any]] = []
    index, columns = 0, (_VIDEOS, _IMAGES) if any(isinstance(made, Still) for made in clips.values()) else (_VIDEOS,)
    with whole_file(path, "wb") as out, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None

        def flush() -> None:
            nonlocal writer
            table = _table(rows, columns)
            writer = writer or stack.enter_context(pq.ParquetWriter(out, table.schema))
            writer.write_table(table)
            rows.clear()

        def write(sample: Sample) -> None:
            nonlocal index
            row = {
                "data_source": sample.source,
                "prompt": form.messages(sample),
                **{name: media_items(media_root, sample, clips)[name] for name, _ in columns},
                "ability": sample.task,
                "reward_model": {"style": "rule", "ground_truth": sample.answer},
            }
            facts = {"index": index, "id": sample.id, "task": sample.task, "split": sample.split}
            rows.append(row | {"extra_info": facts | {"sample": sample.model_dump_json(exclude_none=True)}})
            index += 1
            if len(rows) == ROWS:
                flush()

        yield write
        if rows:
            flush()


def _table(rows: list[dict[str, Any]], columns: Sequence[tuple[str, pa.DataType]]) -> pa.Table:
    """The rows as a table whose columns of media have one type each, whether or not a row has any."""
    table = pa.Table.from_pylist(rows)
    for name, kind in columns:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array([row[name] for row in rows], pa.list_(kind)))
    return table


@contextmanager
def eval_file(path: Path, media_root: Path, clips: Mapping[str, Medium], form: Form) -> Iterator[Write]:
    """JSON Lines for other evaluators: id, prompt, its clip or images, and the sample that scores the answer."""
    with whole_file(path) as out:

        def write(sample: Sample) -> None:
            record = {
                "id": sample.id,
                "messages": form.messages(sample),
                **{name: items for name, items in media_items(media_root, sample, clips).items() if items},
                "sample": sample.model_dump(exclude_none=True),
            }
            out.write(json.dumps(record, ensure_ascii=False) + "\n")

        yield write


def media_items(media_root: Path, sample: Sample, clips: Mapping[str, Medium]) -> dict[str, list[dict[str, Any]]]:
    """What a sample shows, as qwen-vl-utils takes it: `videos` and `images`, one of them empty."""
    shown = [clips[name] for name in sample.media]
    return {
        "videos": [video_item(media_root, one) for one in shown if isinstance(one, Clip)],
        "images": [image_item(media_root, one) for one in shown if isinstance(one, Still)],
    }


def image_item(media_root: Path, still: Still) -> dict[str, Any]:
    """An image as qwen-vl-utils takes it, at its size."""
    path = str((media_root / still.image).absolute())
    return {"image": path, "resized_height": still.height, "resized_width": still.width}


def video_item(media_root: Path, clip: Clip) -> dict[str, Any]:
    """A clip as qwen-vl-utils takes it, and so verl: all of its frames as they are, or an error where it has fewer."""
    return {
        "video": str((media_root / clip.video).absolute()),
        "nframes": clip.frames,
        "resized_height": clip.height,
        "resized_width": clip.width,
    }


def sample_of(extra_info: dict[str, Any]) -> Sample:
    """The sample that `verl_file` put into a row's `extra_info`."""
    return Sample.model_validate_json(extra_info["sample"])

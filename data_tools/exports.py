"""Samples as the files of LLaMA-Factory (SFT), verl (RL) and evaluation, with one prompt and the same clips for all.

Samples are streamed: a set of any size takes no more memory than the table of its clips.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.media import Clip
from data_tools.prompt import messages
from data_tools.sample import Sample

ROWS = 4096  # of a parquet file that are held in memory


class ExportError(ValueError):
    """A sample that an engine could not train on; the message names the record and its field."""


def export_llamafactory(
    samples: Iterable[Sample],
    media_root: Path,
    folder: Path,
    name: str = "sft",
    system: str = "",
    instruction: str = "",
) -> int:
    """Write `folder`/`name`.json (sharegpt) and register it in dataset_info.json; `media_dir` must be `media_root`.

    Returns:
        The number of records.

    Raises:
        ExportError: no samples, a sample without chain, a clip that is missing or empty.
    """

    def records() -> Iterator[str]:
        for sample in _checked(samples, media_root):
            if not sample.chain:
                raise ExportError(f"{sample.id}: chain: SFT needs one")
            turns = [*messages(sample, system, instruction), {"role": "assistant", "content": sample.chain}]
            yield json.dumps({"messages": turns, "videos": [sample.video]}, ensure_ascii=False)

    count = _write_lines(folder / f"{name}.json", records(), "[\n", ",\n", "\n]\n")
    info_file = folder / "dataset_info.json"
    info = json.loads(info_file.read_text()) if info_file.exists() else {}
    info[name] = {
        "file_name": f"{name}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "videos": "videos"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    _write_lines(info_file, [json.dumps(info, indent=1)])
    return count


def export_verl(
    samples: Iterable[Sample],
    media_root: Path,
    path: Path,
    clips: Mapping[str, Clip],
    system: str = "",
    instruction: str = "",
) -> int:
    """Write the parquet file that verl's RLHFDataset reads; the reward finds the whole sample in `extra_info`.

    `extra_info["sample"]` is the sample as JSON text, since a parquet column would give every row the fields of all
    others; `sample_of` reads it back.

    Args:
        clips: sample.video -> what the clip holds.

    Returns:
        The number of rows.

    Raises:
        ExportError: no samples, a clip that is missing or empty.
    """
    rows = (
        {
            "data_source": sample.source,
            "prompt": messages(sample, system, instruction),
            "videos": [video_item(media_root, clips[sample.video])],
            "ability": sample.task,
            "reward_model": {"style": "rule", "ground_truth": sample.answer},
            "extra_info": {
                "index": index,
                "id": sample.id,
                "task": sample.task,
                "split": sample.split,
                "sample": sample.model_dump_json(exclude_none=True),
            },
        }
        for index, sample in enumerate(_checked(samples, media_root))
    )
    tables = (pa.Table.from_pylist(part) for part in iter(lambda: list(islice(rows, ROWS)), []))
    first = next(tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with pq.ParquetWriter(partial, first.schema) as file:
        file.write_table(first)
        count = first.num_rows
        for table in tables:
            file.write_table(table)
            count += table.num_rows
    partial.replace(path)
    return count


def export_eval(
    samples: Iterable[Sample],
    media_root: Path,
    path: Path,
    clips: Mapping[str, Clip],
    system: str = "",
    instruction: str = "",
) -> int:
    """Write JSON Lines for evaluators other than ours: id, prompt, its clip, and the sample that scores the answer.

    Returns:
        The number of lines.

    Raises:
        ExportError: no samples, a clip that is missing or empty.
    """
    lines = (
        json.dumps(
            {
                "id": sample.id,
                "messages": messages(sample, system, instruction),
                "videos": [video_item(media_root, clips[sample.video])],
                "sample": sample.model_dump(exclude_none=True),
            },
            ensure_ascii=False,
        )
        for sample in _checked(samples, media_root)
    )
    return _write_lines(path, lines)


def video_item(media_root: Path, clip: Clip) -> dict[str, Any]:
    """A clip as qwen-vl-utils takes it, and so verl: all of its frames as they are, or an error where it has fewer."""
    return {
        "video": str((media_root / clip.video).absolute()),
        "nframes": clip.frames,
        "resized_height": clip.height,
        "resized_width": clip.width,
    }


def sample_of(extra_info: dict[str, Any]) -> Sample:
    """The sample that `export_verl` put into a row's `extra_info`."""
    return Sample.model_validate_json(extra_info["sample"])


def _checked(samples: Iterable[Sample], media_root: Path) -> Iterator[Sample]:
    none = True
    for sample in samples:
        none = False
        clip = media_root / sample.video
        if not clip.is_file():
            raise ExportError(f"{sample.id}: video: {clip} is missing")
        if not clip.stat().st_size:
            raise ExportError(f"{sample.id}: video: {clip} is empty")
        yield sample
    if none:
        raise ExportError("no samples to export")


def _write_lines(path: Path, lines: Iterable[str], before: str = "", between: str = "\n", after: str = "\n") -> int:
    """Write texts one by one, whole or not at all, and give their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, count = path.with_name(path.name + ".partial"), 0
    with partial.open("w", encoding="utf-8") as file:
        file.write(before)
        for line in lines:
            file.write(f"{between if count else ''}{line}")
            count += 1
        file.write(after)
    partial.replace(path)
    return count

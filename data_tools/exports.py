"""Samples as the files that LLaMA-Factory (SFT) and verl (RL) read, with one prompt for both."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.prompt import messages
from data_tools.sample import Sample


class ExportError(ValueError):
    """A sample that an engine could not train on; the message names the record and its field."""


@dataclass(frozen=True)
class VideoBudget:
    """What a loader may take from each clip: frames per second, number of frames, pixels per frame."""

    fps: float
    max_frames: int
    min_frames: int
    max_pixels: int
    min_pixels: int


def export_llamafactory(
    samples: Sequence[Sample],
    media_root: Path,
    folder: Path,
    name: str = "sft",
    system: str = "",
    instruction: str = "",
) -> Path:
    """Write `folder`/`name`.json (sharegpt) and register it in dataset_info.json; `media_dir` must be `media_root`.

    Raises:
        ExportError: no samples, a sample without chain, a clip that is missing or empty.
    """
    _check(samples, media_root)
    for sample in samples:
        if not sample.chain:
            raise ExportError(f"{sample.id}: chain: SFT needs one")
    records = [
        {
            "messages": [*messages(sample, system, instruction), {"role": "assistant", "content": sample.chain}],
            "videos": [sample.video],
        }
        for sample in samples
    ]
    folder.mkdir(parents=True, exist_ok=True)
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
    _write_json(folder / f"{name}.json", records)
    _write_json(info_file, info)
    return folder / f"{name}.json"


def export_verl(
    samples: Sequence[Sample],
    media_root: Path,
    path: Path,
    budget: VideoBudget,
    system: str = "",
    instruction: str = "",
) -> Path:
    """Write the parquet file that verl's RLHFDataset reads; the reward finds the whole sample in `extra_info`.

    `extra_info["sample"]` is the sample as JSON text, since a parquet column would give every row the fields of all
    others; `sample_of` reads it back.

    Raises:
        ExportError: no samples, a clip that is missing or empty.
    """
    _check(samples, media_root)
    rows = [
        {
            "data_source": sample.source,
            "prompt": messages(sample, system, instruction),
            "videos": [{"video": str((media_root / sample.video).resolve()), **asdict(budget)}],
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
        for index, sample in enumerate(samples)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(path)
    return path


def sample_of(extra_info: dict[str, Any]) -> Sample:
    """The sample that `export_verl` put into a row's `extra_info`."""
    return Sample.model_validate_json(extra_info["sample"])


def _check(samples: Sequence[Sample], media_root: Path) -> None:
    if not samples:
        raise ExportError("no samples to export")
    for sample in samples:
        clip = media_root / sample.video
        if not clip.is_file():
            raise ExportError(f"{sample.id}: video: {clip} is missing")
        if not clip.stat().st_size:
            raise ExportError(f"{sample.id}: video: {clip} is empty")


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)

"""Work split by clip, and append-only records of what is done: a killed writer loses at most its last line."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data_tools.files import read_lines, sha256, whole_folder, whole_lines, write_json
from data_tools.sample import Sample, read_samples
from rewards.errors import UserError

MAX_SHARDS = 256  # files open at a time while the samples are dealt out


class SynthesisError(UserError):
    """A run that cannot start or continue; what is done is kept."""


def partition(
    samples: Path, folder: Path, per_shard: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Deal the samples out to `folder`/NNN/samples.jsonl, all of a clip into the same, once; memory stays bounded.

    Returns:
        `samples` and `shards` (their numbers), and the `sha256` of the samples' file.

    Raises:
        SampleError: a bad record. SynthesisError: `folder` holds the work on another file.
    """
    digest = sha256(samples)
    done = folder / "partition.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        if found["sha256"] != digest:
            raise SynthesisError(
                f"{folder}: holds the work on another samples file than {samples}; choose another synthesis.out"
            )
        return found
    count = sum(1 for _ in read_lines(samples))
    shards = min(max(1, -(-count // per_shard)), MAX_SHARDS)
    content = {"samples": count, "shards": shards, "sha256": digest}
    with whole_folder(folder) as partial, ExitStack() as stack:
        files = []
        for number in range(shards):
            (partial / f"{number:03d}").mkdir(parents=True)
            files.append(stack.enter_context((partial / f"{number:03d}" / "samples.jsonl").open("w", encoding="utf-8")))
        for number, sample in enumerate(read_samples(samples), 1):
            shard = int.from_bytes(hashlib.sha256(sample.shown.encode()).digest()[:6], "big") % shards
            files[shard].write(sample.model_dump_json(exclude_none=True) + "\n")
            if number % 1000 == 0:
                progress(number)
        write_json(partial / "partition.json", content)
    return content


def shard_samples(shard: Path) -> Iterator[Sample]:
    """The samples of a shard."""
    with (shard / "samples.jsonl").open(encoding="utf-8") as lines:
        yield from map(Sample.model_validate_json, lines)


def lock(shard: Path) -> FileLock:
    """Keep the shard to this process until the lock is released.

    Raises:
        SynthesisError: another process has it.
    """
    handle = FileLock(shard / "lock")
    try:
        handle.acquire(timeout=0)
    except Timeout:
        raise SynthesisError(f"{shard}: another process is working on it; wait for it, or end it") from None
    return handle


def read_log(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The last record of each sample id among those made under the settings `key`."""
    records = map(json.loads, whole_lines(path))
    return {record["id"]: record for record in records if record["key"] == key}

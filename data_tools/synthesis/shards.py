"""Work split by clip, and append-only records of what is done; who is killed loses the line being written at most."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from data_tools.sample import Sample, read_lines, read_samples

MAX_SHARDS = 256  # files open at a time while the samples are dealt out


class SynthesisError(RuntimeError):
    """A run that cannot start or go on; what is done is kept."""


def partition(samples: Path, folder: Path, per_shard: int, progress: Callable[[int], None] = lambda done: None) -> dict:
    """Deal the samples out into `folder`/NNN/samples.jsonl, all of a clip into the same, once; memory stays bounded.

    Returns:
        `samples` and `shards` (their numbers), and the `sha256` of the samples' file.

    Raises:
        SampleError: a bad record. SynthesisError: `folder` holds the work on another file.
    """
    with samples.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    done = folder / "partition.json"
    if done.exists():
        found = json.loads(done.read_text())
        if found["sha256"] != digest:
            raise SynthesisError(f"{folder}: holds the work on another samples file than {samples}; give another out=")
        return found
    count = sum(1 for _ in read_lines(samples))
    shards = min(max(1, -(-count // per_shard)), MAX_SHARDS)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with ExitStack() as stack:
        files = []
        for number in range(shards):
            (partial / f"{number:03d}").mkdir(parents=True)
            files.append(stack.enter_context((partial / f"{number:03d}" / "samples.jsonl").open("w", encoding="utf-8")))
        for number, sample in enumerate(read_samples(samples), 1):
            place = int.from_bytes(hashlib.sha256(sample.video.encode()).digest()[:6], "big") % shards
            files[place].write(sample.model_dump_json(exclude_none=True) + "\n")
            if number % 1000 == 0:
                progress(number)
    content = {"samples": count, "shards": shards, "sha256": digest}
    (partial / "partition.json").write_text(json.dumps(content) + "\n")
    partial.rename(folder)
    return content


def shard_samples(shard: Path) -> Iterator[Sample]:
    """The samples of a shard."""
    with (shard / "samples.jsonl").open(encoding="utf-8") as lines:
        yield from map(Sample.model_validate_json, lines)


def lock(shard: Path) -> TextIO:
    """Keep the shard to this process for as long as the returned file is open.

    Raises:
        SynthesisError: another process has it.
    """
    handle = (shard / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise SynthesisError(f"{shard}: another process is at work on it; wait for it, or end it") from None
    return handle


def read_log(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The last record of each sample id among those made under the settings `key`."""
    records: dict[str, dict[str, Any]] = {}
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and (record := json.loads(line))["key"] == key:
                    records[record["id"]] = record
    return records


def cut_half_line(path: Path) -> None:
    """Take off what a killed writer left of its last line. Needs the shard's lock."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        while start:
            size = min(start, 1 << 16)
            file.seek(start - size)
            place = file.read(size).rfind(b"\n")
            if place >= 0:
                start += place + 1 - size
                break
            start -= size
        if start < end:
            file.truncate(start)


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line in one write."""
    line = json.dumps(record, ensure_ascii=True).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)

"""Generation and filtering of chains: resumable at any record, over several servers and worker processes.

A shard folder holds `samples.jsonl`, and two append-only logs: `chains.jsonl` (what was generated and paid for, under
the hash of what was asked) and `verdicts.jsonl` (what the filters said, under the hash of chain and filters). So a
changed filter judges the chains that are there, and a changed prompt makes new ones; neither touches the other.
"""

import asyncio
import hashlib
import json
import mimetypes
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from data_tools.prompt import VIDEO, user_text
from data_tools.sample import BY_OPTION, Sample
from data_tools.synthesis.filters import FILTERS, Unsettled, fault
from data_tools.synthesis.shards import SynthesisError, append, cut_half_line, lock, read_log, shard_samples
from rewards.endpoint import BudgetError, Completion, Endpoint, EndpointError, RefusedError, Usage, data_url
from rewards.judge import EndpointJudge, Judge, JudgeError, build

Progress = Callable[[str], None]  # called once per record: kept, dropped, failed, or done before
CAPS = ("max_requests", "max_tokens", "max_cost")
SAVE_EVERY = 5.0  # seconds between two writes of what was spent


class Settings(BaseModel):
    """A synthesis recipe (recipes/synthesis)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    samples: str
    media_root: str
    out: str
    reveal_answer: bool
    instruction: str | None  # null: the question alone
    filters: list[str]
    min_accuracy: dict[str, float]
    send: Literal["data", "file", "frames"]
    frames: PositiveInt
    endpoint: dict[str, Any]
    judge: dict[str, Any]
    per_shard: PositiveInt
    workers: PositiveInt
    ray: str | None
    max_failures: PositiveInt
    review: int = Field(ge=0)
    seed: int
    reference: dict[str, Any] | None = None

    @field_validator("filters")
    @classmethod
    def _known(cls, filters: list[str]) -> list[str]:
        if filters[:1] != ["format"] or set(filters) - set(FILTERS):
            raise ValueError(f"begin with format, and go on with any of {', '.join(FILTERS)}")
        return filters

    @field_validator("min_accuracy")
    @classmethod
    def _has_default(cls, bounds: dict[str, float]) -> dict[str, float]:
        if "default" not in bounds or not all(0 <= bound <= 1 for bound in bounds.values()):
            raise ValueError("needs `default`, and bounds between 0 and 1")
        return bounds

    @property
    def folder(self) -> Path:
        return Path(self.out).expanduser()

    @property
    def chain_key(self) -> str:
        """Hash of all that decides what a generator is asked."""
        asked = (self.reveal_answer, self.instruction, self.send, self.frames if self.send == "frames" else None)
        return _hash(asked, self.endpoint.get("model"), self.endpoint.get("request"))

    @property
    def verdict_key(self) -> str:
        """Hash of all that decides what becomes of a chain."""
        judge = {name: self.judge.get(name) for name in ("name", "model", "request")}
        return _hash(self.chain_key, self.filters, self.min_accuracy, judge)


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def request_for(sample: Sample, settings: Settings) -> list[dict[str, Any]]:
    """Chat messages that ask for the chain of a sample.

    Raises:
        SampleFailure: the clip is missing, empty, outside the media root or cannot be decoded.
    """
    lines = [user_text(sample).removeprefix(VIDEO)]
    if settings.reveal_answer:
        lines.append(f"The right answer is: {gold_text(sample)}")
    if settings.instruction:
        lines.append(settings.instruction)
    return [{"role": "user", "content": [*_clip_parts(sample, settings), {"type": "text", "text": "\n".join(lines)}]}]


def gold_text(sample: Sample) -> str:
    """The right answer in words: what an answer-conditioned generator is shown."""
    if sample.task in BY_OPTION:
        return f"{sample.answer}. {sample.answer_text}"
    parts = [sample.answer] if sample.answer else []
    parts += [f"{start:g} to {end:g} seconds" for start, end in sample.spans]
    parts += [f"[{', '.join(f'{edge:g}' for edge in box)}]" for box in sample.boxes]
    return "; ".join(parts + sample.events)


class SampleFailure(RuntimeError):
    """A sample that no chain can be had for, now; the run goes on without it."""


def clip_of(sample: Sample, settings: Settings) -> Path:
    """The sample's clip, which lies under the media root even if it is a link.

    Raises:
        SampleFailure: it does not, or it is missing or empty.
    """
    root = Path(settings.media_root).expanduser().resolve()
    clip = (root / sample.video).resolve()
    if not clip.is_relative_to(root):
        raise SampleFailure(f"video: {sample.video} leads out of the media root")
    if not clip.is_file() or not clip.stat().st_size:
        raise SampleFailure(f"video: {clip} is missing or empty")
    return clip


def _clip_parts(sample: Sample, settings: Settings) -> list[dict[str, Any]]:
    clip = clip_of(sample, settings)
    if settings.send == "file":
        return [{"type": "video_url", "video_url": {"url": clip.as_uri()}}]
    if settings.send == "data":
        kind = mimetypes.guess_type(clip.name)[0] or "video/mp4"
        return [{"type": "video_url", "video_url": {"url": data_url(clip.read_bytes(), kind)}}]
    pictures = frames_of(clip, settings.frames)
    return [{"type": "image_url", "image_url": {"url": data_url(picture, "image/jpeg")}} for picture in pictures]


def frames_of(clip: Path, count: int, longest_side: int | None = None) -> list[bytes]:
    """`count` frames of a clip as JPEG, evenly spread, in one pass with one frame in memory beside those kept.

    Raises:
        SampleFailure: the clip cannot be decoded.
    """
    import av

    try:
        with av.open(str(clip)) as file:
            total = sum(packet.pts is not None for packet in file.demux(video=0))
        count = min(count, total)
        wanted = {round(place * (total - 1) / max(count - 1, 1)) for place in range(count)}
        pictures = []
        with av.open(str(clip)) as file:
            for number, frame in enumerate(file.decode(video=0)):
                if number in wanted:
                    picture = frame.to_image()
                    if longest_side:
                        picture.thumbnail((longest_side, longest_side))
                    out = BytesIO()
                    picture.save(out, "JPEG", quality=90)
                    pictures.append(out.getvalue())
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise SampleFailure(f"video: {clip}: {error}") from error
    if not pictures:
        raise SampleFailure(f"video: {clip} has no frame")
    return pictures


async def work(settings: Settings, worker: int = 0, progress: Progress = lambda outcome: None) -> None:
    """Do this worker's share of the shards: those whose number leaves `worker` when divided by the number of workers.

    Raises:
        SynthesisError: a spent budget, a server that refuses, or `max_failures` in a row; what is done is kept.
    """
    spent, own = read_usage(settings.folder), settings.folder / "usage" / f"{uuid4().hex}.json"
    share = {who: {name: total / settings.workers for name, total in spent[who].items()} for who in spent}
    endpoint = Endpoint(_capped(settings.endpoint, settings.workers), Usage(**share["generator"]))
    judge = build(_capped(settings.judge, settings.workers))
    clients = {"generator": endpoint}
    if isinstance(judge, EndpointJudge):
        judge.endpoint.usage = Usage(**share["judge"])
        clients["judge"] = judge.endpoint

    def save() -> None:
        used = {who: _less(asdict(client.usage), share[who]) for who, client in clients.items()}
        _write_json(own, used)

    own.parent.mkdir(parents=True, exist_ok=True)
    failures, saved, locks, stop = 0, monotonic(), [], None
    records = _pending(settings, worker, locks, progress)

    async def serve() -> None:
        nonlocal failures, saved, stop
        for shard, sample, chain in records:  # one iterator for all: each takes the next record
            if stop is not None:
                return
            try:
                progress(await _one(settings, shard, sample, chain, endpoint, judge))
                failures = 0
            except (SampleFailure, EndpointError, JudgeError, Unsettled) as error:
                if any(isinstance(each, BudgetError | RefusedError) for each in (error, error.__cause__)):
                    stop = stop or SynthesisError(str(error))  # what is under way is paid for: let it arrive
                    return
                record = {"id": sample.id, "key": settings.verdict_key, "outcome": "failed", "detail": str(error)}
                append(shard / "verdicts.jsonl", record)
                progress("failed")
                failures += 1
                if failures >= settings.max_failures:
                    raise SynthesisError(f"{failures} records failed in a row; the last: {error}") from error
            if monotonic() - saved > SAVE_EVERY:
                saved = monotonic()
                save()

    # Twice as many as the servers take: some records are with the judge while others are with the generator.
    servers = 2 * endpoint.settings.concurrency * len(endpoint.settings.url)
    tasks = [asyncio.create_task(serve()) for _ in range(servers)]
    try:
        await asyncio.gather(*tasks)
        if stop is not None:
            raise stop
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        save()
        for client in clients.values():
            await client.close()
        for handle in locks:
            handle.close()


def _pending(
    settings: Settings, worker: int, locks: list[Any], progress: Progress
) -> Iterator[tuple[Path, Sample, str | None]]:
    """Records without a verdict, with their chain where one is there already; one shard in memory at a time."""
    for shard in shards_of(settings.folder)[worker :: settings.workers]:
        locks.append(lock(shard))
        for log in ("chains.jsonl", "verdicts.jsonl"):
            cut_half_line(shard / log)
        settled = {
            number
            for number, record in read_log(shard / "verdicts.jsonl", settings.verdict_key).items()
            if record["outcome"] != "failed"
        }
        chains = {
            number: record["text"]
            for number, record in read_log(shard / "chains.jsonl", settings.chain_key).items()
            if number not in settled
        }
        for sample in shard_samples(shard):
            if sample.id in settled:
                progress("done before")
            else:
                yield shard, sample, chains.pop(sample.id, None)


async def _one(
    settings: Settings, shard: Path, sample: Sample, chain: str | None, endpoint: Endpoint, judge: Judge
) -> str:
    if chain is None:
        messages = await asyncio.to_thread(request_for, sample, settings)
        completion: Completion = await endpoint.ask(messages)
        chain = completion.text.strip()
        record = {"id": sample.id, "key": settings.chain_key, "text": chain, "finish_reason": completion.finish_reason}
        record |= {name: getattr(completion, name) for name in ("prompt_tokens", "completion_tokens", "cost")}
        append(shard / "chains.jsonl", record)
    wrong = await fault(chain, sample, judge, settings.filters, settings.min_accuracy)
    outcome = "kept" if wrong is None else "dropped"
    verdict = {"id": sample.id, "key": settings.verdict_key, "outcome": outcome}
    if wrong is not None:
        verdict |= {"by": wrong[0], "detail": wrong[1]}
    append(shard / "verdicts.jsonl", verdict)
    return outcome


def shards_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "shards").iterdir() if path.is_dir())


def _capped(settings: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Settings of an endpoint for one of several workers: its share of the budget."""
    caps = {name: settings[name] / workers for name in CAPS if settings.get(name) is not None}
    return {**settings, **{name: cap if name == "max_cost" else int(cap) for name, cap in caps.items()}}


def _less(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: now[name] - before[name] for name in now}


def read_usage(folder: Path) -> dict[str, dict[str, float]]:
    """What generator and judge have cost in all, over every worker and every interrupted run."""
    total = {who: asdict(Usage()) for who in ("generator", "judge")}
    for path in sorted((folder / "usage").glob("*.json")):
        for who, used in json.loads(path.read_text()).items():
            total[who] = {name: total[who][name] + used[name] for name in total[who]}
    # Each worker starts from its share of what was spent before, so that counts may come in fractions.
    return {who: {n: used[n] if n == "cost" else round(used[n]) for n in used} for who, used in total.items()}


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def serve_commands(settings: Settings) -> list[str]:
    """`vllm serve` for the generator and the judge, as the settings expect them."""
    video = settings.send != "frames"
    limits = {"image": 0 if video else settings.frames, "video": int(video)}
    generator = ["--tensor-parallel-size", "8", "--max-model-len", "32768"]
    generator += ["--limit-mm-per-prompt", json.dumps(limits)]
    if settings.send == "file":
        generator += ["--allowed-local-media-path", str(Path(settings.media_root).expanduser().resolve())]
    commands = [_serve(settings.endpoint, generator, 8000)]
    if settings.judge.get("name") == "endpoint":
        commands.append(_serve(settings.judge, ["--tensor-parallel-size", "2", "--max-model-len", "16384"], 8001))
    return commands


def _serve(client: Mapping[str, Any], arguments: list[str], port: int) -> str:
    url = client.get("url")
    parts = urlsplit(url if isinstance(url, str) else (url or [""])[0])
    address = ["--host", parts.hostname or "127.0.0.1", "--port", str(parts.port or port)]
    return shlex.join(["vllm", "serve", str(client["model"]), *arguments, *address])

"""Generation and filtering of chains: resumable at any record, over several servers and worker processes.

A shard folder holds `samples.jsonl`, and two append-only logs: `chains.jsonl` (what was generated and paid for, under
the hash of its settings) and `verdicts.jsonl` (what the filters decided, under the hash of chain and filters). So a
changed filter judges the existing chains, and a changed prompt makes new ones; neither touches the other.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from filelock import FileLock

from data_tools.files import append_line, repair_last_line, write_json
from data_tools.sample import Sample
from data_tools.synthesis.filters import Unsettled, failed_filter
from data_tools.synthesis.request import SampleFailure, clip_parts, request_for
from data_tools.synthesis.settings import Settings
from data_tools.synthesis.shards import SynthesisError, lock, read_log, shard_samples
from rewards.judges.build import build
from rewards.judges.client import BudgetError, Completion, Endpoint, EndpointError, RefusedError, Usage
from rewards.judges.endpoint import EndpointJudge
from rewards.judges.protocol import Judge, JudgeError

Progress = Callable[[str], None]  # called once per record: kept, dropped, failed, or done earlier
CAPS = ("max_requests", "max_tokens", "max_cost")
SAVE_EVERY = 5.0  # seconds between two writes of what was spent


async def write_chains(settings: Settings, worker: int = 0, progress: Progress = lambda outcome: None) -> None:
    """Do this worker's share of the shards: every `settings.workers`-th one, starting with number `worker`.

    Raises:
        SynthesisError: a spent budget, a server that refuses, or `max_failures` in a row; what is done is kept.
    """
    spent, own = read_usage(settings.folder), settings.folder / "usage" / f"{uuid4().hex}.json"
    share = {who: {name: total / settings.workers for name, total in spent[who].items()} for who in spent}
    endpoint = Endpoint(_capped(settings.endpoint, settings.workers), _usage(share["generator"]))
    judge = build(_capped(settings.judge, settings.workers))
    clients = {"generator": endpoint}
    if isinstance(judge, EndpointJudge):
        judge.endpoint.usage = _usage(share["judge"])
        clients["judge"] = judge.endpoint

    def save() -> None:
        write_json(own, {who: _less(asdict(client.usage), share[who]) for who, client in clients.items()})

    failures, saved = 0, monotonic()
    stop: SynthesisError | None = None
    locks: list[FileLock] = []
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
                    stop = stop or SynthesisError(str(error))  # requests in flight are paid for: let them arrive
                    return
                record = {"id": sample.id, "key": settings.verdict_key, "outcome": "failed", "detail": str(error)}
                append_line(shard / "verdicts.jsonl", record)
                progress("failed")
                failures += 1
                if failures >= settings.max_failures:
                    raise SynthesisError(f"{failures} records failed in a row; the last: {error}") from error
            if monotonic() - saved > SAVE_EVERY:
                saved = monotonic()
                save()

    # Twice as many as the servers take: some records are with the judge while others are with the generator.
    at_once = endpoint.settings.concurrency * len(endpoint.settings.url)
    tasks = [asyncio.create_task(serve()) for _ in range(2 * at_once)]
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
            handle.release()


def _pending(
    settings: Settings, worker: int, locks: list[FileLock], progress: Progress
) -> Iterator[tuple[Path, Sample, str | None]]:
    """Records without a verdict, with their chain where it exists already; one shard in memory at a time."""
    for shard in shards_of(settings.folder)[worker :: settings.workers]:
        locks.append(lock(shard))
        for log in ("chains.jsonl", "verdicts.jsonl"):
            repair_last_line(shard / log)
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
                progress("done earlier")
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
        append_line(shard / "chains.jsonl", record)
    bounds = settings.min_accuracy, settings.sufficient, settings.show_answer
    wrong = await failed_filter(
        chain, sample, judge, settings.filters, *bounds, clip=partial(clip_parts, sample, settings)
    )
    outcome = "kept" if wrong is None else "dropped"
    verdict = {"id": sample.id, "key": settings.verdict_key, "outcome": outcome}
    if wrong is not None:
        verdict |= {"by": wrong[0], "detail": wrong[1]}
    append_line(shard / "verdicts.jsonl", verdict)
    return outcome


def shards_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "shards").iterdir() if path.is_dir())


def _capped(settings: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Settings of an endpoint for one of several workers, with its share of the budget."""
    caps = {name: settings[name] / workers for name in CAPS if settings.get(name) is not None}
    return {**settings, **{name: cap if name == "max_cost" else int(cap) for name, cap in caps.items()}}


def _usage(share: Mapping[str, float]) -> Usage:
    return Usage(**share)  # type: ignore[arg-type]  # a worker's share of a count may be a fraction


def _less(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: now[name] - before[name] for name in now}


def read_usage(folder: Path) -> dict[str, dict[str, float]]:
    """What generator and judge have cost in total, over every worker and every interrupted run."""
    total = {who: asdict(Usage()) for who in ("generator", "judge")}
    for path in sorted((folder / "usage").glob("*.json")):
        for who, used in json.loads(path.read_text()).items():
            total[who] = {name: total[who][name] + used[name] for name in total[who]}
    # Each worker starts from its share of what was spent before, so that counts may come in fractions.
    return {who: {n: used[n] if n == "cost" else round(used[n]) for n in used} for who, used in total.items()}

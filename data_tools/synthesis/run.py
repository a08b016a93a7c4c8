"""Make chains, on this machine or over a cluster, with progress."""

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from data_tools.console import Console
from data_tools.media.parallel import ALL_CORES, Map
from data_tools.synthesis.outcome import collect, write_report
from data_tools.synthesis.pipeline import shards_of, write_chains
from data_tools.synthesis.settings import Settings
from data_tools.synthesis.shards import SynthesisError, partition
from rewards.errors import UserError
from rewards.judges.build import build
from rewards.judges.client import Endpoint

POLL = 2.0  # seconds


def make_chains(settings: Settings, console: Console, each: Map = ALL_CORES) -> dict[str, Any]:
    """Generate and filter what is missing, then write the outcome; the summary.

    Args:
        each: runs the workers, where there are several.

    Raises:
        EndpointError, JudgeError: wrong settings of a client, or a missing key; nothing is written.
        SynthesisError: it cannot continue; what is done is kept and reported.
    """
    stop = None
    Endpoint(settings.endpoint)  # a wrong setting or a missing key is refused before anything is written
    build(settings.judge)
    settings.folder.mkdir(parents=True, exist_ok=True)
    with _bar(console) as bar:
        dealing = bar.add_task("dealing out", total=None)
        deal = partition(
            Path(settings.samples),
            settings.folder / "shards",
            settings.per_shard,
            lambda done: bar.update(dealing, completed=done),
        )
        bar.remove_task(dealing)
        task = bar.add_task(f"chains of {settings.name}", total=deal["samples"])
        try:
            if settings.workers == 1:
                _work_here(settings, bar, task)
            else:
                _work_in_tasks(settings, bar, task, each)
        except UserError as error:
            stop = error
    summary, review = collect(settings)
    write_report(settings, summary, review)
    _print_summary(console, settings, summary)
    if stop is not None:
        raise SynthesisError(f"{stop}\n  The same command resumes from here.") from stop
    return summary


def _print_summary(console: Console, settings: Settings, summary: dict[str, Any]) -> None:
    table = Table("outcome", "records", title=f"{settings.name}: {summary['samples']:,} samples")
    table.columns[1].justify = "right"
    table.add_row("[green]kept", f"{summary['kept']:,}")
    for name, count in summary["dropped_by"].items():
        table.add_row(f"dropped by {name}", f"{count:,}")
    table.add_row("failed", f"{summary['failed']:,}")
    if summary["pending"]:
        table.add_row("[yellow]pending", f"{summary['pending']:,}")
    console.print(table)
    for who, used in summary["usage"].items():
        tokens = used["prompt_tokens"] + used["completion_tokens"]
        console.print(f"  {who}: {used['requests']:,.0f} requests, {tokens:,.0f} tokens, cost {used['cost']:,.2f}")
    for name in ("kept.jsonl", "dropped.jsonl", "failed.jsonl", "funnel.md", "funnel.png", "review.html"):
        console.print(f"  {settings.folder / name}")


def _bar(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _work_here(settings: Settings, bar: Progress, task: TaskID) -> None:
    asyncio.run(write_chains(settings, progress=lambda outcome: bar.advance(task)))


def _work_in_tasks(settings: Settings, bar: Progress, task: TaskID, each: Map) -> None:
    """One task per worker; a lost one is restarted and resumes from its shards, which all nodes must share."""
    verdicts, done = _VerdictCounter(settings), threading.Event()

    def tick() -> None:
        while not done.wait(POLL):
            bar.update(task, completed=verdicts.count())

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        problems = [
            problem for _, problem in each(partial(_work_in_task, settings), range(settings.workers)) if problem
        ]
    finally:
        done.set()
        clock.join()
        bar.update(task, completed=verdicts.count())
    if problems:
        raise SynthesisError(problems[0])


def _work_in_task(settings: Settings, worker: int) -> str | None:
    """`write_chains` in a task; what stopped it, as text, since an error would restart the task."""
    try:
        asyncio.run(write_chains(settings, worker))
    except SynthesisError as error:
        return str(error)
    return None


class _VerdictCounter:
    """Counts the verdicts of all shards, reading only the new part of each log."""

    def __init__(self, settings: Settings) -> None:
        self._folder, self._key = settings.folder, f'"key": "{settings.verdict_key}"'.encode()
        self._read: dict[Path, int] = {}
        self._total = 0

    def count(self) -> int:
        for shard in shards_of(self._folder):
            log = shard / "verdicts.jsonl"
            if log.exists() and log.stat().st_size > self._read.get(log, 0):
                with log.open("rb") as file:
                    file.seek(self._read.get(log, 0))
                    new = file.read()
                self._total += sum(self._key in line for line in new.splitlines())
                self._read[log] = self._read.get(log, 0) + len(new)
        return self._total

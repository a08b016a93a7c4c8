"""Answers to questions about clips, in vLLM: python -m launch.engines.vllm.main JOB.json

A record is appended to its file as soon as it is complete; questions that have one are not asked again.

Every engine is a process of its own: one fork on one device, Ray actors on several, which share the questions. If an
engine dies, its in-flight questions are retried in smaller batches; a question that kills an engine on its own is
recorded as failed.
"""

import json
import multiprocessing
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from data_tools.sample import read_samples
from launch.engines import patches
from launch.engines.cleanup import die_with_parent
from launch.engines.patches.hooks import after_import
from launch.engines.patches.vllm import end_engine_core_with_server
from launch.engines.ray.nodes import join
from launch.engines.vllm.answers import Answer, Question, answers, failed
from launch.engines.vllm.job import Job, Questions, answered_ids
from launch.engines.vllm.settings import build_engine
from launch.recipe import Recipe

MAX_CONSECUTIVE_FAILURES = 8  # engines that may die one after the other without a single answer
FRAME_BYTES = 16 * 2**30  # decoded frames that one engine may hold


class EngineFailed(RuntimeError):
    """An engine died while it answered."""


class Engine(Protocol):
    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        """A record per question, in the order in which they are complete, at most `window` in flight.

        Raises:
            EngineFailed: it died.
        """

    def close(self) -> None: ...


def main(path: Path) -> None:
    job = Job.model_validate_json(path.read_text())
    prepare(job.recipe)
    read = [part.samples for part in job.questions] + [Path(model) for model in job.models]
    with engines(job.recipe, [str(path) for path in read if path.is_absolute()]) as (make, count):
        for model, parts in job.models.items():
            missing: list[Question] = []
            for part in parts:
                done = answered_ids(part.out)
                samples = sorted(read_samples(part.samples), key=lambda sample: sample.shown)
                missing += [(part, sample) for sample in samples if sample.id not in done]
            if missing:
                predict(partial(make, model), count, missing, window(job.recipe, parts))


def prepare(recipe: Recipe) -> None:
    """Patch the engines in this process."""
    if recipe.cluster.device == "cpu":
        from launch.engines.patches import cpu

        cpu.name_vllm()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in its process: nothing to start, or to leave
    patches.apply()
    after_import("vllm.v1.engine.core")(end_engine_core_with_server)


def window(recipe: Recipe, parts: Sequence[Questions]) -> int:
    """Questions in flight in one engine: more than it generates at once, as far as memory for their frames allows."""
    clip = max(
        max(
            part.media.max_frames * part.media.max_pixels,
            part.media.given_images * part.media.images.max_pixels if part.media.images else 0,
        )
        * 3
        * 4
        for part in parts
    )
    return max(1, min(2 * recipe.vllm.max_num_seqs, FRAME_BYTES // clip))


# ---------------------------------------------------------------- many questions, several engines


def predict(make: Callable[[], Engine], count: int, questions: Sequence[Question], window: int) -> None:
    """Append one record per question to the file of its part, by `count` engines side by side.

    Raises:
        EngineFailed: engine after engine died without an answer.
    """
    outs = dict.fromkeys(part.out for part, _ in questions)
    with ExitStack() as opened:
        files = {out: opened.enter_context(out.open("a", encoding="utf-8")) for out in outs}
        Dispatcher(make, count, questions, window, files).run()


@dataclass(frozen=True)
class Batch:
    """Questions for one engine, at most `window` of them in flight."""

    questions: list[Question]
    window: int


class Dispatcher:
    """Hands batches to engines, replaces engines that die, and writes one record per question."""

    def __init__(
        self,
        make: Callable[[], Engine],
        count: int,
        questions: Sequence[Question],
        window: int,
        files: Mapping[Path, IO[str]],
    ) -> None:
        # Batches small enough that no engine finishes long before the others; the last of the list is taken first.
        size = max(1, -(-len(questions) // (4 * count)) if count > 1 else len(questions))
        starts = reversed(range(0, len(questions), size))
        self._todo = [Batch(list(questions[start : start + size]), window) for start in starts]
        self._make, self._count, self._files = make, count, files
        self._lock, self._consecutive_failures = threading.Lock(), 0

    def run(self) -> None:
        if self._count == 1:  # a process should fork while it has one thread
            self._work()
            return
        with ThreadPoolExecutor(self._count) as pool:
            for future in [pool.submit(self._work) for _ in range(self._count)]:
                future.result()

    def _work(self) -> None:
        """Take batches until none is left, each by the engine of the last one or, if that died, by a new one."""
        engine = None
        try:
            while batch := self._next():
                waiting = {(part.out, sample.id): (part, sample) for part, sample in batch.questions}
                try:
                    engine = engine or self._make()
                    for out, record in engine.stream(batch.questions, batch.window):
                        self._keep(out, record)
                        del waiting[out, record["id"]]
                except EngineFailed as error:
                    left = f"{len(waiting)} of {len(batch.questions)} questions are left"
                    sys.stderr.write(f"warning: {error}; {left}\n")
                    if engine is not None:
                        engine.close()
                    engine = None
                    self._retry(batch, list(waiting.values()), error)
        finally:
            if engine is not None:
                engine.close()

    def _next(self) -> Batch | None:
        with self._lock:
            return self._todo.pop() if self._todo else None

    def _keep(self, out: Path, record: dict[str, Any]) -> None:
        with self._lock:
            self._write(out, record)
            self._consecutive_failures = 0

    def _write(self, out: Path, record: dict[str, Any]) -> None:
        self._files[out].write(json.dumps(record, ensure_ascii=False) + "\n")
        self._files[out].flush()

    def _retry(self, batch: Batch, waiting: list[Question], error: EngineFailed) -> None:
        """Queue the questions that were in flight in smaller batches, last; a single one is recorded as failed."""
        with self._lock:
            self._consecutive_failures += 1
            if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                self._todo.clear()
                raise error
            in_flight, rest = waiting[: batch.window], waiting[batch.window :]  # questions are asked in order
            if rest:
                self._todo.append(Batch(rest, batch.window))
            if in_flight and len(batch.questions) == 1:
                ((part, sample),) = in_flight
                self._write(part.out, failed(sample.id, f"{error} on this question alone"))
            elif in_flight:
                self._todo.insert(0, Batch(in_flight, max(1, min(batch.window, len(in_flight)) // 8)))


# ---------------------------------------------------------------- engines


@contextmanager
def engines(recipe: Recipe, paths: Sequence[str] = ()) -> Iterator[tuple[Callable[..., Engine], int]]:
    """make(model) -> Engine, and how many of them the cluster has devices for; `paths`: what every node must see."""
    cluster, parallel = recipe.cluster, recipe.vllm.tensor_parallel_size
    count = cluster.nodes * cluster.policy_gpus // parallel
    if count <= 1 and cluster.address is None:
        yield partial(ForkedEngine, recipe), 1
        return
    if cluster.address is None:  # before Ray is imported, which reads them then
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    if cluster.address is None:
        ray.init(
            num_gpus=cluster.nodes * cluster.policy_gpus,  # without GPUs Ray only counts them
            num_cpus=max(16, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=10**9,
            _temp_dir=f"{tempfile.gettempdir()}/ray",
        )
    else:
        join(cluster.address, cluster.nodes, cluster.policy_gpus, paths)
    try:
        yield partial(RayEngine, recipe, parallel), count
    finally:
        ray.shutdown()


class ForkedEngine:
    """An engine in a fork of this process, which has imported vLLM already."""

    def __init__(self, recipe: Recipe, model: str) -> None:
        from vllm import LLM  # noqa: F401 imported once for all forks

        context = multiprocessing.get_context("fork")
        self._pipe, childs_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(childs_end, self._pipe, recipe, model))
        self._process.start()
        childs_end.close()

    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        try:
            self._pipe.send((questions, window))
            while (record := self._pipe.recv()) is not None:
                yield record
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise EngineFailed(f"the engine crashed (exit code {self._process.exitcode})") from error

    def close(self) -> None:
        self._pipe.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Any, parents_end: Any, recipe: Recipe, model: str) -> None:
    die_with_parent()
    parents_end.close()
    engine = build_engine(recipe, model)
    while True:
        try:
            questions, window = pipe.recv()
        except EOFError:
            return
        for record in answers(engine, recipe, questions, window):
            pipe.send(record)
        pipe.send(None)


class RayEngine:
    """An engine in a Ray actor, on any node."""

    def __init__(self, recipe: Recipe, gpus: int, model: str) -> None:
        import ray

        self._actor = ray.remote(num_gpus=gpus, num_cpus=1)(_Actor).remote(recipe, model)

    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        import ray

        try:
            for record in self._actor.stream.options(num_returns="streaming").remote(questions, window):
                yield ray.get(record)
        except ray.exceptions.RayError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
            raise EngineFailed(f"the engine crashed ({reason.strip()})") from error

    def close(self) -> None:
        import ray

        ray.kill(self._actor)


class _Actor:
    def __init__(self, recipe: Recipe, model: str) -> None:
        die_with_parent()
        prepare(recipe)
        self._engine = build_engine(recipe, model)
        self._recipe = recipe

    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        yield from answers(self._engine, self._recipe, questions, window)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

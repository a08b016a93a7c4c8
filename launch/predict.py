"""Answers to questions about clips, in vLLM: python -m launch.predict JOB.json

The job: {"recipe": its dump, "root": media root, "models": {folder: [{"samples": file, "control": name or null,
"out": file}, ...]}}. A record is appended to `out` as soon as it is complete; those that are there are not made again.

Every engine is a process of its own: one fork on one device, Ray actors on several, which share the questions. One that
ends before its time is replaced by a fresh one, and the questions that it was at are asked again, in ever smaller
company; the one that brings an engine down all alone is recorded as failed.
"""

import json
import multiprocessing
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from data_tools.controls import Control
from data_tools.sample import read_samples
from launch.answers import Question, answers, build_engine, failed
from launch.process import bind_engine_core, die_with_parent
from launch.verl_plugin import patches
from launch.verl_plugin.imports import after_import

ENV = {"VERL_PLATFORM": ""}  # of this process: verl, which takes long to import, has no part in it
BARREN = 8  # engines that may end one after the other without a single answer
MEMORY = 16 * 2**30  # bytes of decoded frames that one engine may hold

Answer = tuple[Control | None, dict[str, Any]]


class EngineFailed(RuntimeError):
    """An engine ended, or broke, while it answered."""


class Engine(Protocol):
    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        """A record per question, as they are complete, at most `window` in flight.

        Raises:
            EngineFailed: it cannot go on.
        """

    def close(self) -> None: ...


def main(path: Path) -> None:
    job = json.loads(path.read_text())
    recipe = job["recipe"]
    prepare(recipe)
    with engines(recipe) as (make, count):
        for model, works in job["models"].items():
            outs = {work["control"]: Path(work["out"]) for work in works}
            done = {control: whole_lines(out) for control, out in outs.items()}
            missing = [
                (work["control"], sample)
                for work in works
                for sample in sorted(read_samples(Path(work["samples"])), key=lambda sample: sample.video)
                if sample.id not in done[work["control"]]
            ]
            if missing:
                predict(partial(make, model, job["root"]), count, missing, window(recipe), outs)


def prepare(recipe: dict[str, Any]) -> None:
    """Mend the engines in this process."""
    if recipe["cluster"]["device"] == "cpu":
        from launch.verl_plugin import cpu

        cpu.name_vllm()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in its process: nothing to start, or to leave
    patches.apply()
    after_import("vllm.v1.engine.core")(bind_engine_core)


def window(recipe: dict[str, Any]) -> int:
    """Samples in flight in one engine: more than it serves at once, as far as memory for their frames goes."""
    media = recipe["media"]
    clip = media["max_frames"] * media["max_pixels"] * 3 * 4
    return max(1, min(2 * recipe["rl"]["rollout"]["max_num_seqs"], MEMORY // clip))


def whole_lines(path: Path) -> set[str]:
    """Ids of the predictions that were written to their end; a half-written last line is cut off, and its loss told."""
    if not path.exists():
        return set()
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        sys.stderr.write(f"warning: {path}: the last line is half written and dropped\n")
        os.truncate(path, len(whole))
    return {json.loads(line)["id"] for line in whole.splitlines()}


def predict(
    make: Callable[[], Engine],
    count: int,
    questions: Sequence[Question],
    window: int,
    outs: dict[Control | None, Path],
) -> None:
    """Append one record per question to the file of its control, by `count` engines side by side.

    Raises:
        EngineFailed: engine after engine ended without an answer.
    """
    # Shares small enough that no engine ends long before the others; the last of `todo` is taken first.
    size = max(1, -(-len(questions) // (4 * count)) if count > 1 else len(questions))
    todo = [(list(questions[start : start + size]), window) for start in range(0, len(questions), size)][::-1]
    lock, barren = threading.Lock(), 0

    def write(control: Control | None, record: dict[str, Any]) -> None:
        files[control].write(json.dumps(record, ensure_ascii=False) + "\n")
        files[control].flush()

    def give_up_or_ask_again(waiting: list[Question], window: int, alone: bool, error: EngineFailed) -> None:
        nonlocal barren
        barren += 1
        if barren >= BARREN:
            todo.clear()
            raise error
        at, rest = waiting[:window], waiting[window:]  # questions are asked in order
        if rest:
            todo.append((rest, window))
        if alone and at:
            write(at[0][0], failed(at[0][1].id, f"{error}, at this question alone"))
        elif at:
            todo.insert(0, (at, max(1, min(window, len(at)) // 8)))

    def serve() -> None:
        nonlocal barren
        engine = None
        try:
            while True:
                with lock:
                    if not todo:
                        return
                    group, window = todo.pop()
                waiting = {(control, sample.id): (control, sample) for control, sample in group}
                try:
                    engine = engine or make()
                    for control, record in engine.stream(group, window):
                        with lock:
                            write(control, record)
                            barren = 0
                        del waiting[control, record["id"]]
                except EngineFailed as error:
                    sys.stderr.write(f"warning: {error}; {len(waiting)} of {len(group)} questions are left\n")
                    if engine is not None:
                        engine.close()
                    engine = None
                    with lock:
                        give_up_or_ask_again(list(waiting.values()), window, len(group) == 1, error)
        finally:
            if engine is not None:
                engine.close()

    with ExitStack() as opened:
        files = {control: opened.enter_context(out.open("a", encoding="utf-8")) for control, out in outs.items()}
        if count == 1:  # forks are best made by a process of one thread
            serve()
        else:
            with ThreadPoolExecutor(count) as pool:
                for future in [pool.submit(serve) for _ in range(count)]:
                    future.result()


@contextmanager
def engines(recipe: dict[str, Any]) -> Iterator[tuple[Callable[..., Engine], int]]:
    """make(model, root) -> Engine, and how many of them have a place."""
    cluster, parallel = recipe["cluster"], recipe["rl"]["rollout"]["tensor_parallel_size"]
    count = cluster["nodes"] * cluster["gpus_per_node"] // parallel
    if count <= 1:
        yield partial(ForkedEngine, recipe), 1
        return
    if cluster["address"] is None:  # before Ray is imported, which reads them then
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    if cluster["address"] is None:
        ray.init(
            num_gpus=cluster["nodes"] * cluster["gpus_per_node"],  # on the embedded default they are logical places
            num_cpus=max(16, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=10**9,
            _temp_dir=f"{tempfile.gettempdir()}/ray",
        )
    else:
        ray.init(address=cluster["address"])
    try:
        yield partial(RayEngine, recipe, parallel), count
    finally:
        ray.shutdown()


class ForkedEngine:
    """An engine in a fork of this process, which has imported it already."""

    def __init__(self, recipe: dict[str, Any], model: str, root: str) -> None:
        from vllm import LLM  # noqa: F401 imported once for all forks

        context = multiprocessing.get_context("fork")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._pipe, recipe, model, root))
        self._process.start()
        there.close()

    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        try:
            self._pipe.send((questions, window))
            while (record := self._pipe.recv()) is not None:
                yield record
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise EngineFailed(f"the engine ended (exit code {self._process.exitcode})") from error

    def close(self) -> None:
        self._pipe.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Any, parents_end: Any, recipe: dict[str, Any], model: str, root: str) -> None:
    die_with_parent()
    parents_end.close()
    engine = build_engine(recipe, model)
    while True:
        try:
            questions, window = pipe.recv()
        except EOFError:
            return
        for record in answers(engine, recipe, Path(root), questions, window):
            pipe.send(record)
        pipe.send(None)


class RayEngine:
    """An engine in a Ray actor, on any node."""

    def __init__(self, recipe: dict[str, Any], gpus: int, model: str, root: str) -> None:
        import ray

        self._actor = ray.remote(num_gpus=gpus, num_cpus=1)(_Actor).remote(recipe, model, root)

    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        import ray

        try:
            for record in self._actor.stream.options(num_returns="streaming").remote(questions, window):
                yield ray.get(record)
        except ray.exceptions.RayError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
            raise EngineFailed(f"the engine ended ({reason.strip()})") from error

    def close(self) -> None:
        import ray

        ray.kill(self._actor)


class _Actor:
    def __init__(self, recipe: dict[str, Any], model: str, root: str) -> None:
        die_with_parent()
        prepare(recipe)
        self._engine = build_engine(recipe, model)
        self._recipe, self._root = recipe, Path(root)

    def stream(self, questions: Sequence[Question], window: int) -> Iterator[Answer]:
        yield from answers(self._engine, self._recipe, self._root, questions, window)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

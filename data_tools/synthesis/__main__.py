"""Write reasoning chains and keep the sound ones.

python -m data_tools.synthesis RECIPE key=value ...     RECIPE: camreasoner, videop2r, or a YAML file
python -m data_tools.synthesis RECIPE --serve ...       prints the vllm commands that the recipe expects
python -m data_tools.synthesis demo [out=FOLDER]        rendered clips and a local server: the whole pipeline, no model

The same command goes on where it was interrupted. docs/synthesis.md
"""

import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_tools.synthesis.pipeline import Settings

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "synthesis"
POLL = 2.0  # seconds


def main(arguments: list[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__ or "")
        return 0
    from rich.console import Console

    from data_tools.sample import SampleError
    from data_tools.synthesis.shards import SynthesisError
    from rewards.endpoint import EndpointError
    from rewards.judge import JudgeError

    console = Console(highlight=False, soft_wrap=True)
    recipe, *rest = arguments
    try:
        if recipe == "demo":
            from data_tools.synthesis.demo import demo

            demo(rest, console)
            return 0
        settings = read_settings(recipe, [each for each in rest if each != "--serve"])
        if "--serve" in rest:
            from data_tools.synthesis.pipeline import serve_commands

            for line in serve_commands(settings):
                console.print(line, markup=False)
            return 0
        run(settings, console)
    except (SynthesisError, SampleError, EndpointError, JudgeError, OSError) as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("[bold red]error[/]", end=" ")
        console.print(str(error), markup=False)
        return 1
    return 0


def read_settings(recipe: str, overrides: list[str]) -> "Settings":
    """The recipe with `key=value` overrides.

    Raises:
        SynthesisError: naming the key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError
    from yaml import YAMLError

    from data_tools.synthesis.pipeline import Settings
    from data_tools.synthesis.shards import SynthesisError

    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise SynthesisError(f"recipe {recipe!r}: choose {known}, demo, or the path of a YAML file")
    if wrong := [each for each in overrides if "=" not in each]:
        raise SynthesisError(f"{wrong[0]!r}: an override is key=value")
    try:
        config = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
        if config.judge.get("name") == "rules":
            config.judge = {"name": "rules"}
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise SynthesisError("the recipe leaves these to you: " + ", ".join(f"{key}=..." for key in missing))
        content = OmegaConf.to_container(config, resolve=True)
        return Settings.model_validate(content)
    except (OmegaConfBaseException, YAMLError) as error:
        raise SynthesisError(f"{path}: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise SynthesisError("the recipe is wrong:\n" + "\n".join(lines)) from error


def run(settings: "Settings", console: Any) -> dict[str, Any]:
    """Generate and filter what is missing, then write the outcome; the summary.

    Raises:
        SynthesisError: it cannot go on; what is done is kept and reported.
    """
    from rich.table import Table

    from data_tools.synthesis.outcome import collect, write_report
    from data_tools.synthesis.shards import SynthesisError, partition

    stop = None
    settings.folder.mkdir(parents=True, exist_ok=True)
    with _bar(console) as bar:
        dealing = bar.add_task("dealing out", total=None)
        deal = partition(
            Path(settings.samples).expanduser(),
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
                _work_on_ray(settings, bar, task)
        except SynthesisError as error:
            stop = error
    summary, review = collect(settings)
    write_report(settings, summary, review)
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
    if stop is not None:
        raise SynthesisError(f"{stop}\n  The same command goes on from here.") from stop
    return summary


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _work_here(settings: "Settings", bar: Any, task: Any) -> None:
    from data_tools.synthesis.pipeline import work

    asyncio.run(work(settings, progress=lambda outcome: bar.advance(task)))


def _work_on_ray(settings: "Settings", bar: Any, task: Any) -> None:
    """One Ray task per worker; a lost one is started again and goes on from its shards, which all nodes must share."""
    from data_tools.parallel import WorkerError, each
    from data_tools.synthesis.shards import SynthesisError

    def one(worker: int) -> str | None:
        return remote_work(settings, worker)

    ticker, done = _ticker(settings), threading.Event()

    def tick() -> None:
        while not done.wait(POLL):
            bar.update(task, completed=ticker())

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        ended = list(each(one, range(settings.workers), settings.workers, settings.ray or "local"))
    except WorkerError as error:
        raise SynthesisError(str(error)) from error
    finally:
        done.set()
        clock.join()
        bar.update(task, completed=ticker())
    if problems := [problem for _, problem in ended if problem]:
        raise SynthesisError(problems[0])


def remote_work(settings: "Settings", worker: int) -> str | None:
    """`work` in a Ray task; what stopped it, as text, since an error would make Ray start it again."""
    from data_tools.synthesis.pipeline import work
    from data_tools.synthesis.shards import SynthesisError

    try:
        asyncio.run(work(settings, worker))
    except SynthesisError as error:
        return str(error)
    return None


def _ticker(settings: "Settings") -> Any:
    """A function that counts the verdicts of all shards, and reads each log's new part only."""
    from data_tools.synthesis.pipeline import shards_of

    key = f'"key": "{settings.verdict_key}"'.encode()
    read: dict[Path, int] = {}
    total = 0

    def tick() -> int:
        nonlocal total
        for shard in shards_of(settings.folder):
            log = shard / "verdicts.jsonl"
            if log.exists() and log.stat().st_size > read.get(log, 0):
                with log.open("rb") as file:
                    file.seek(read.get(log, 0))
                    new = file.read()
                total += sum(key in line for line in new.splitlines())
                read[log] = read.get(log, 0) + len(new)
        return total

    return tick


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

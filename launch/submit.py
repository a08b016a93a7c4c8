"""Run a stage on a Ray cluster as a job that outlives whoever started it.

python -m launch.submit start rl --address http://head:8265 experiment=camreasoner runs=/shared/runs ...
python -m launch.submit {logs,status,stop} JOB --address http://head:8265

A job carries the code and the recipes, nothing else: weights, clips and runs lie on a file system that all nodes share,
and packages are those of the nodes (docs/cluster.md), compared when the run starts. What a job description holds can be
read by all who reach the cluster, so no secret goes there: the nodes have them in their own environment.
"""

import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.errors import LaunchError, explain, known_errors
from launch.recipe import ROOT, Recipe

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

FOLDERS = ("data_tools", "evaluation", "launch", "recipes", "requirements", "rewards")
SUFFIXES = (".css", ".j2", ".js", ".json", ".py", ".txt", ".yaml", ".yml")
MAX_MB = 10.0
POLL_SECONDS = 2.0
AGENT_SECONDS = 120.0  # that a node may take to start what receives jobs
Stage = Literal["data", "model", "sft", "rl", "merge", "evaluate", "report"]
Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard: http://host:8265")
]
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__.splitlines()[0])


# ------------------------------------------------------------------ what is sent


def pack(folder: Path, root: Path = ROOT) -> float:
    """Copy code and recipes of `root` into `folder`, and give their size in MB.

    Raises:
        LaunchError: more than MAX_MB; names the largest files.
    """
    sizes = {}
    for path in _sources(root):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        sizes[path.relative_to(root)] = path.stat().st_size / 1e6
    if sum(sizes.values()) > MAX_MB:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:3]
        shown = ", ".join(f"{path} {sizes[path]:.1f} MB" for path in largest)
        raise LaunchError(
            f"code and recipes are {sum(sizes.values()):.0f} MB, more than {MAX_MB:g}: {shown}. Move them out"
        )
    return sum(sizes.values())


def _sources(root: Path) -> Iterator[Path]:
    for name in FOLDERS:
        for path in sorted((root / name).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
                yield path


def refuse_secrets(texts: Sequence[tuple[str, str]], variables: dict[str, str]) -> None:
    """Raise if one of the named texts holds the value of an environment variable that is called like a secret.

    Raises:
        LaunchError: naming the text and the variable, never the value.
    """
    secrets = {name: value for name, value in variables.items() if _SECRET.search(name) and len(value) >= 8}
    for what, text in texts:
        for name, value in secrets.items():
            if value in text:
                raise LaunchError(
                    f"{what} holds the value of ${name}: a job description can be read by all who reach the cluster. "
                    "Set the variable on the nodes before `ray start`, and give its name only"
                )


def entrypoint(stage: str, overrides: Sequence[str], recipe: Recipe, python: str) -> str:
    """The job's command line.

    Raises:
        LaunchError: a path that would mean another folder on each node.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    paths = [("runs", recipe.runs), ("data.media_root", recipe.data.media_root)]
    paths += [(f"data.files.{split}", path) for split, given in recipe.data.paths().items() for path in given]
    for key, path in paths:
        if path is not None and not Path(path).expanduser().is_absolute():
            raise LaunchError(f"{key}={path}: give an absolute path on a file system that all nodes share")
    given = {override.get_key_element() for override in OverridesParser.create().parse_overrides(list(overrides))}
    joined = ["cluster.address=auto"] if stage == "rl" and "cluster.address" not in given else []
    return shlex.join([python, "-m", f"launch.{stage}", *overrides, *joined])


# ------------------------------------------------------------------ commands


@app.command()
def start(
    stage: Stage,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for the stage itself")] = None,
    address: Address = "http://127.0.0.1:8265",
    python: Annotated[str, typer.Option(help="The interpreter on the nodes.")] = "python",
    follow: Annotated[bool, typer.Option(help="Show the job's log; Ctrl-C leaves the job alone.")] = True,
) -> None:
    """Submit a stage."""
    with _explained():
        job = submit(stage, overrides or [], address, python)
        if follow and not _follow(client(address), job, address):
            raise typer.Exit(1)


@app.command()
def logs(job: str, address: Address = "http://127.0.0.1:8265") -> None:
    """Follow a job's log to its end."""
    with _explained():
        if not _follow(client(address), job, address):
            raise typer.Exit(1)


@app.command()
def status(job: Annotated[str | None, typer.Argument()] = None, address: Address = "http://127.0.0.1:8265") -> None:
    """State of one job, or of all."""
    from launch.run import console

    with _explained():
        for details in sorted(client(address).list_jobs(), key=lambda details: details.start_time or 0):
            if details.submission_id and job in (None, details.submission_id):
                console.print(f"{details.submission_id}  {details.status.value}  {details.message or ''}", markup=False)


@app.command()
def stop(job: str, address: Address = "http://127.0.0.1:8265") -> None:
    """End a job; the same `start` goes on from its last checkpoint."""
    from launch.run import console

    with _explained():
        jobs = client(address)
        jobs.stop_job(job)
        while not (state := jobs.get_job_status(job)).is_terminal():
            time.sleep(POLL_SECONDS)
        console.print(f"{job}  {state.value}", markup=False)


def submit(stage: str, overrides: Sequence[str], address: str, python: str = "python") -> str:
    """Submit a stage and give the job's id.

    Raises:
        RecipeError, LaunchError: before anything is sent.
    """
    from launch.plan import compose_recipe
    from launch.run import console

    recipe, yours = compose_recipe(overrides)
    if yours:
        raise LaunchError("the recipe leaves these to you: " + ", ".join(f"{key}=..." for key in yours))
    command = entrypoint(stage, overrides, recipe, python)
    job = f"{recipe.experiment}-{recipe.name}-{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
    with tempfile.TemporaryDirectory() as folder:
        size = pack(Path(folder))
        texts = [("the command line", command)]
        texts += [(str(path.relative_to(folder)), path.read_text()) for path in Path(folder).rglob("*.yaml")]
        refuse_secrets(texts, dict(os.environ))
        gpus = (
            recipe.cluster.gpus_per_node if recipe.cluster.device == "cuda" and stage in ("sft", "evaluate") else None
        )
        _send(client(address), entrypoint=command, submission_id=job, working_dir=folder, gpus=gpus)
    console.print(f"[bold]{job}[/] sent to {address} with {size:.1f} MB of code and recipes: {command}")
    return job


def _send(jobs: "JobSubmissionClient", entrypoint: str, submission_id: str, working_dir: str, gpus: int | None) -> None:
    """Raises:
    LaunchError: the cluster takes no job; one that has just started gets AGENT_SECONDS.
    """
    from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

    waiting = Retrying(
        retry=retry_if_exception_message(match=".*No available agent"),
        stop=stop_after_delay(AGENT_SECONDS),
        wait=wait_fixed(POLL_SECONDS),
        reraise=True,
    )
    try:
        waiting(
            jobs.submit_job,
            entrypoint=entrypoint,
            submission_id=submission_id,
            runtime_env={"working_dir": working_dir},
            entrypoint_num_gpus=gpus,
        )
    except RuntimeError as error:
        raise LaunchError(f"the cluster did not take the job: {error}") from error


def client(address: str) -> "JobSubmissionClient":
    """Raises:
    LaunchError: nobody there.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise LaunchError(
            f"no Ray dashboard at {address}: correct --address, or start a cluster (docs/cluster.md). {why}"
        ) from error


def _follow(jobs: "JobSubmissionClient", job: str, address: str) -> bool:
    """Show the log to its end; True when the job succeeded."""
    import asyncio

    from launch.run import console

    async def tail() -> None:
        async for lines in jobs.tail_job_logs(job):
            console.print(lines, end="", markup=False)

    again = f"python -m launch.submit logs {job} --address {address}"
    try:
        asyncio.run(tail())
        while not (state := jobs.get_job_status(job)).is_terminal():
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.print(f"\n{job} goes on; see it with: {again}", markup=False)
        return True
    message = jobs.get_job_info(job).message or ""
    console.print(f"{job}  {state.value}  {message}", markup=False)
    return state.value == "SUCCEEDED"


class _explained:
    """Known errors as one message and exit code 1."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, known_errors()):
            explain(error)
            raise typer.Exit(1)


if __name__ == "__main__":
    app()

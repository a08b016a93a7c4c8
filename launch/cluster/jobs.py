"""Send a stage to a Ray cluster as a job."""

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import LaunchError
from launch.recipe import RECIPES, ROOT, Recipe
from launch.stages import STAGES, joins

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
FOLDERS = ("data_tools", "evaluation", "launch", RECIPES.name, "requirements", "rewards")
SUFFIXES = (".css", ".j2", ".jinja", ".js", ".json", ".py", ".txt", ".yaml", ".yml")
MAX_MB = 10.0
POLL_SECONDS = 2.0
AGENT_SECONDS = 120.0  # that a node may take to start what receives jobs


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


def entrypoint(stage: str, overrides: Sequence[str], recipe: Recipe, python: str) -> str:
    """The job's command line.

    Raises:
        LaunchError: a path that would mean another folder on each node.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    paths = [("runs", recipe.runs), ("data.media_root", recipe.data.media_root)]
    paths.append(("data.poses.folder", recipe.data.poses.folder))
    paths += [(f"data.files.{split}", path) for split, given in recipe.data.paths().items() for path in given]
    for key, path in paths:
        if path is not None and not Path(path).is_absolute():
            raise LaunchError(f"{key}={path}: give an absolute path on a file system that all nodes share")
    given = {override.get_key_element() for override in OverridesParser.create().parse_overrides(list(overrides))}
    joined = ["cluster.address=auto"] if joins(stage, recipe) and "cluster.address" not in given else []
    return shlex.join([python, "-m", f"launch.{stage}", *overrides, *joined])


def submit(stage: str, overrides: Sequence[str], address: str, python: str = "python") -> str:
    """Submit a stage and give the job's id.

    Raises:
        RecipeError, LaunchError: before anything is sent.
    """
    from launch.compose import compose_complete, refuse_secrets
    from launch.console import console

    recipe = compose_complete(overrides)
    command = entrypoint(stage, overrides, recipe, python)
    job = f"{recipe.experiment}-{recipe.name}-{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
    with tempfile.TemporaryDirectory() as folder:
        size = pack(Path(folder))
        texts = [("the command line", command)]
        texts += [(str(path.relative_to(folder)), path.read_text()) for path in Path(folder).rglob("*.yaml")]
        refuse_secrets(texts, dict(os.environ))
        # What joins the cluster asks for its GPUs there: held by the job as well, they would never be free.
        on_this_node = recipe.cluster.device == "cuda" and STAGES[stage].nodes and not joins(stage, recipe)
        gpus = recipe.cluster.gpus_per_node if on_this_node else None
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
            f"no Ray dashboard at {address}: correct the address, or start a cluster (docs/cluster.md). {why}"
        ) from error


def follow_job(jobs: "JobSubmissionClient", job: str, address: str) -> bool:
    """Show the log to its end; True when the job succeeded."""
    import asyncio

    from launch.console import console

    async def tail() -> None:
        async for lines in jobs.tail_job_logs(job):
            console.print(lines, end="", markup=False)

    again = f"python -m launch.jobs logs={job} address={address}"
    try:
        asyncio.run(tail())
        while not (state := jobs.get_job_status(job)).is_terminal():
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.print(f"\n{job} is still running; follow it with: {again}", markup=False)
        return True
    message = jobs.get_job_info(job).message or ""
    console.print(f"{job}  {state.value}  {message}", markup=False)
    return bool(state.value == "SUCCEEDED")

"""Look at RL's rollouts and at evaluation answers in a browser, with their clips, also while RL trains.

python -m launch.watch runs/demo/main                       serves http://127.0.0.1:8600, on this machine alone
python -m launch.watch runs/demo/main runs/demo/seed1       two runs, side by side where they were asked the same
python -m launch.watch runs/demo/main out=page              writes a folder whose index.html opens without a server
"""

import socket
from pathlib import Path

from pydantic import Field

from data_tools.cli import Arguments, run_command
from data_tools.run_folder import RunFolder
from launch.console import console
from launch.errors import LaunchError

HOST = "127.0.0.1"


class WatchArguments(Arguments):
    files: list[Path] = Field([Path("runs/demo/main")], min_length=1, description="run folders")
    port: int = Field(8600, ge=1, le=65535, description="of this machine, which no other machine can reach")
    out: Path | None = Field(None, description="folder to write instead of serving")


def main(arguments: WatchArguments) -> None:
    import uvicorn
    from rich.status import Status

    from evaluation.viewer.folder import write_folder
    from evaluation.viewer.index import Index
    from evaluation.viewer.server import Server

    indexes = [Index(run) for run in _runs(arguments.files)]
    with Status("reading answers", console=console) as status:
        for index in indexes:
            index.refresh(lambda done: status.update(f"{done} answers read"))
        if arguments.out:
            page = write_folder(indexes, arguments.out, lambda done: status.update(f"{done} questions written"))
            console.print(f"[green]written[/] {page}")
            return
    with _listening(arguments.port) as listening:
        console.print(f"http://{HOST}:{arguments.port}   stop it with Ctrl-C")
        config = uvicorn.Config(Server(indexes).app(), log_level="warning", timeout_graceful_shutdown=1)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # how it is meant to end
            pass


def _runs(folders: list[Path]) -> list[RunFolder]:
    """Raises LaunchError where one is no run folder."""
    runs = [RunFolder(folder) for folder in folders]
    for run in runs:
        if not run.recipe.exists():
            raise LaunchError(f"{run.root} is not a run folder (recipe.yaml)")
    return runs


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise LaunchError(f"cannot listen on port {port}: {error.strerror or error}; give another port=") from error


if __name__ == "__main__":
    run_command(main, WatchArguments, __doc__ or "")

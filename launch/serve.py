"""Serve a model to OpenAI clients over HTTP: python -m launch.serve model=runs/demo/main port=8000

vLLM's own server (docs/inference.md: how to ask it with the prompt that the model was trained on). Other machines reach
it only with host=.
"""

import os
import socket
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from data_tools.cli import run_command
from launch.engines.vllm.settings import server_arguments
from launch.errors import LaunchError
from launch.health.gpus import seen_gpus
from launch.models import ModelArguments, chosen_model, model_folder
from launch.recipe import Recipe

# What requests may name is checked by launch/engines/vllm/media.py; an address is fetched where it is, or not at all.
MEDIA_ENV = {"VLLM_MEDIA_CONNECTOR": "camreasoner", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}


class ServeArguments(ModelArguments):
    port: int = Field(8000, ge=1, le=65535)
    host: str = Field("127.0.0.1", description="address to listen on; any but loopback opens the model to others")
    media: Path | None = Field(None, description="folder whose clips requests may name as file:// addresses")
    media_domains: list[str] = Field(
        [], description="hosts whose http(s) clips requests may name; redirects are refused"
    )
    gpus: PositiveInt | None = Field(None, description="that share the weights; by default as many as the recipe has")
    copies: PositiveInt | None = Field(None, description="of the model, side by side; by default as GPUs are there for")


def require_free(host: str, port: int) -> None:
    """Raise unless a server can listen there, before an engine is loaded.

    Raises:
        LaunchError: the port is taken, or the host is not an address of this machine.
    """
    try:
        with socket.create_server((host, port)):  # with SO_REUSEADDR: a port that was closed a moment ago is free
            pass
    except OSError as error:
        raise LaunchError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; give another port="
        ) from error


def copies_here(recipe: Recipe) -> int:
    """Copies of the model that the GPUs of this machine hold, as far as this process may use them; one on a CPU."""
    if recipe.cluster.device == "cpu":
        return 1
    return max(1, len(seen_gpus()) // recipe.vllm.tensor_parallel_size)


def request(recipe: Recipe, name: str) -> dict[str, Any]:
    """An example request, with the prompt that the model was trained on."""
    from data_tools.sample import VIDEO, Sample

    fields = {"id": "a", "video": "a.mp4", "task": "binary", "answer": "A", "source": "user", "split": "test"}
    sample = Sample.model_validate({**fields, "question": "Does the camera pan to the left?", "options": ["Yes", "No"]})
    turns: list[dict[str, Any]] = [*recipe.form.messages(sample)]
    text = turns[-1]["content"].removeprefix(VIDEO)
    clip = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,..."}}
    turns[-1]["content"] = [clip, {"type": "text", "text": text}]
    return {"model": name, "messages": turns, "temperature": 0, "max_tokens": recipe.eval.max_tokens}


def run_server(command: list[str]) -> None:
    """vLLM's server in this process, until it is stopped."""
    import uvloop
    from vllm.entrypoints.openai import api_server

    from launch.engines.vllm.media import take_usual_pictures_only  # and the connector of MEDIA_ENV is known

    take_usual_pictures_only()
    api_server.cli_env_setup()
    parsed = api_server.make_arg_parser(api_server.FlexibleArgumentParser()).parse_args(command)
    api_server.validate_parsed_serve_args(parsed)
    uvloop.run(api_server.run_server(parsed))


def main(arguments: ServeArguments) -> None:
    from launch.console import console
    from launch.engines.environment import engine_env

    recipe, weights = chosen_model(arguments.model, arguments.experiment, arguments.trust_remote_code)
    host, port, media = arguments.host, arguments.port, arguments.media
    require_free(host, port)
    if arguments.gpus:
        shared = recipe.vllm.model_copy(update={"tensor_parallel_size": arguments.gpus})
        recipe = recipe.model_copy(update={"vllm": shared})
    folder = model_folder(weights)
    name = folder.name if Path(weights).exists() else weights  # a hub id is served under this id
    os.environ.update(engine_env(recipe) | {"VERL_PLATFORM": ""} | MEDIA_ENV)
    console.print(f"model {weights}\nserves http://{host}:{port}/v1 once it is loaded; stop it with Ctrl-C\na request:")
    console.print_json(data=request(recipe, name))

    from launch.engines.vllm.main import prepare

    prepare(recipe)
    copies, domains = arguments.copies or copies_here(recipe), arguments.media_domains
    run_server(server_arguments(recipe, folder, name, host, port, media, copies, domains))


if __name__ == "__main__":
    run_command(main, ServeArguments, __doc__)

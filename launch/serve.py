"""Serve a model to OpenAI clients, on this machine: python -m launch.serve --model runs/demo/main --port 8000

vLLM's own server (docs/inference.md: how to ask it with the prompt that the model was trained on). MODEL as for
`launch.ask`. Other machines reach it only with --host.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.ask import chosen_model
from launch.errors import LaunchError, explain, known_errors
from launch.recipe import Recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def require_free(host: str, port: int) -> None:
    """Raise unless a server may listen there; before an engine is loaded for nothing.

    Raises:
        LaunchError: the port is taken, or the host is none of this machine's.
    """
    try:
        with socket.create_server((host, port)):  # with SO_REUSEADDR: a port that has just been left is free
            pass
    except OSError as error:
        raise LaunchError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; give another --port"
        ) from error


def arguments(recipe: Recipe, model: Path, name: str, host: str, port: int, media: Path | None) -> list[str]:
    """vLLM's command line: the budgets of the recipe, weights in safetensors only."""
    rl, rollout, budget = recipe.rl, recipe.rl.rollout, recipe.media
    options = {
        "model": model,
        "served-model-name": name,
        "host": host,
        "port": port,
        "load-format": "safetensors",
        "dtype": recipe.model.dtype,
        "seed": recipe.seed,
        "max-model-len": rl.max_prompt_length + recipe.eval.max_tokens,
        "max-num-seqs": rollout.max_num_seqs,
        "max-num-batched-tokens": rollout.max_num_batched_tokens,
        "tensor-parallel-size": rollout.tensor_parallel_size,
        "generation-config": "vllm",  # what a request leaves out is vLLM's default, not the model's
        "limit-mm-per-prompt": json.dumps({"image": 0, "video": 1}),
        "media-io-kwargs": json.dumps({"video": {"fps": budget.fps, "num_frames": budget.max_frames}}),
    }
    if media is not None:
        options["allowed-local-media-path"] = media.absolute()
    flags = ["--trust-remote-code"] if recipe.model.trust_remote_code else []
    flags += ["--enforce-eager"] if rollout.enforce_eager else []
    if recipe.cluster.device == "cpu":
        options["gpu-memory-utilization"] = rollout.gpu_memory_utilization
        flags += ["--skip-mm-profiling", "--no-enable-chunked-prefill"]  # launch/verl.py says why
    return [*(f"--{key}={value}" for key, value in options.items()), *flags]


def request(recipe: Recipe, name: str) -> dict:
    """An example of a request, with the prompt that the model was trained on."""
    from data_tools.prompt import VIDEO, messages
    from data_tools.sample import Sample

    sample = Sample.model_construct(question="Does the camera pan to the left?", options=["Yes", "No"])
    turns = messages(sample, recipe.data.system, recipe.data.instruction)
    text = turns[-1]["content"].removeprefix(VIDEO)
    clip = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,..."}}
    turns[-1]["content"] = [clip, {"type": "text", "text": text}]
    return {"model": name, "messages": turns, "temperature": 0, "max_tokens": recipe.eval.max_tokens}


def run_server(command: list[str]) -> None:
    """vLLM's server in this process, until it is ended."""
    import uvloop
    from vllm.entrypoints.openai import api_server

    api_server.cli_env_setup()
    parsed = api_server.make_arg_parser(api_server.FlexibleArgumentParser()).parse_args(command)
    api_server.validate_parsed_serve_args(parsed)
    uvloop.run(api_server.run_server(parsed))


@app.command()
def main(
    model: Annotated[str, typer.Option(help="run folder, model's folder or hub id")] = "runs/demo/main",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="address to listen on; any but loopback opens the model to others")
    ] = "127.0.0.1",
    media: Annotated[
        Path | None, typer.Option(help="folder whose clips requests may name as file:// addresses")
    ] = None,
    experiment: Annotated[
        str, typer.Option(help="gives prompt and media budget of a model without a run")
    ] = "camreasoner",
) -> None:
    """Serve a model over HTTP by vLLM's OpenAI-compatible server."""
    from launch.engine import engine_env
    from launch.evaluate import model_folder
    from launch.run import console

    try:
        recipe, weights = chosen_model(model, experiment)
        require_free(host, port)
        folder = model_folder(weights)
    except known_errors() as error:
        explain(error)
        sys.exit(1)
    os.environ.update(engine_env(recipe) | {"VERL_PLATFORM": ""})
    name = folder.name
    console.print(f"model {weights}\nserves http://{host}:{port}/v1 once it is loaded; end it with Ctrl-C\na request:")
    console.print_json(data=request(recipe, name))

    from launch.predict import prepare

    prepare(recipe.model_dump(mode="json"))
    run_server(arguments(recipe, folder, name, host, port, media))


if __name__ == "__main__":
    app()

"""Serving: on loopback, with the run's budgets, and never on a port that is taken."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_tools.prompt import messages
from data_tools.sample import Sample
from launch.errors import LaunchError
from launch.serve import app, arguments, request, require_free


def test_a_taken_port_is_refused_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port}.*in use.*--port"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)  # left again
    with pytest.raises(LaunchError, match="203.0.113.1"):  # an address for examples (RFC 5737): nobody's
        require_free("203.0.113.1", port)


def test_the_server_listens_on_loopback_and_loads_safetensors_only(tiny_recipe):
    options = arguments(tiny_recipe(), Path("m"), "m", "127.0.0.1", 8000, None)
    assert {"--host=127.0.0.1", "--load-format=safetensors", "--max-model-len=320"} <= set(options)
    assert not any("trust-remote-code" in option or "local-media" in option for option in options)


def test_vllm_knows_every_argument(tiny_recipe, tmp_path):
    from launch.predict import prepare

    prepare(tiny_recipe().model_dump(mode="json"))
    from vllm.entrypoints.openai import api_server

    for recipe in (tiny_recipe(), tiny_recipe("cluster.device=cuda", "model.trust_remote_code=true")):
        parser = api_server.make_arg_parser(api_server.FlexibleArgumentParser())
        parsed = parser.parse_args(arguments(recipe, tmp_path, "m", "127.0.0.1", 8000, tmp_path))
        api_server.validate_parsed_serve_args(parsed)
        assert parsed.port == 8000 and parsed.media_io_kwargs == {"video": {"fps": 2.0, "num_frames": 4}}
        assert callable(api_server.cli_env_setup) and callable(api_server.run_server)
        assert parsed.trust_remote_code is recipe.model.trust_remote_code


def test_the_example_asks_as_in_training(tiny_recipe):
    recipe = tiny_recipe("data.system=Look.", "data.instruction=Think.")
    sample = Sample.model_construct(question="Does the camera pan to the left?", options=["Yes", "No"])
    system, user = request(recipe, "m")["messages"]
    clip, text = user["content"]
    turns = messages(sample, "Look.", "Think.")
    assert system == turns[0] and clip["type"] == "video_url" and "<video>" + text["text"] == turns[1]["content"]


def test_a_port_out_of_range_is_refused():
    assert CliRunner().invoke(app, ["--port", "70000"]).exit_code == 2

"""Serving: on loopback, with the run's budgets, and never on a port that is taken."""

import socket
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools.cli import UsageError, parse
from data_tools.prompt import messages
from data_tools.sample import Sample
from launch import serve
from launch.ask import with_images
from launch.engines.vllm.settings import server_arguments
from launch.errors import LaunchError
from launch.serve import MEDIA_ENV, ServeArguments, request, require_free


def test_a_taken_port_is_refused_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port}.*in use.*port="):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)  # left again
    with pytest.raises(LaunchError, match="203.0.113.1"):  # an address for examples (RFC 5737): nobody's
        require_free("203.0.113.1", port)


def test_the_server_listens_on_loopback_and_loads_safetensors_only(tiny_recipe):
    options = server_arguments(tiny_recipe(), Path("m"), "m", "127.0.0.1", 8000, None)
    assert {"--host=127.0.0.1", "--load-format=safetensors", "--max-model-len=320"} <= set(options)
    assert "--no-trust-remote-code" in options and not any("local-media" in option for option in options)


def test_one_key_sets_the_engines_of_rl_evaluation_and_server(tiny_recipe):
    recipe = tiny_recipe("vllm.max_num_seqs=7", "vllm.max_prompt_length=300", "rl.rollout.enforce_eager=false")
    assert (recipe.rl.rollout.max_num_seqs, recipe.rl.max_prompt_length) == (7, 300)
    assert recipe.vllm.enforce_eager and not recipe.rl.rollout.enforce_eager
    options = server_arguments(recipe, Path("m"), "m", "127.0.0.1", 8000, None)
    assert {"--max-num-seqs=7", "--max-model-len=364", "--enforce-eager"} <= set(options)


def test_vllm_knows_every_argument(tiny_recipe, tmp_path):
    from launch.engines.vllm.main import prepare

    prepare(tiny_recipe())
    from vllm.entrypoints.openai import api_server

    for recipe in (
        tiny_recipe(),
        tiny_recipe("model=qwen3_5_9b", "cluster.device=cuda", "model.trust_remote_code=true"),
    ):
        parser = api_server.make_arg_parser(api_server.FlexibleArgumentParser())
        parsed = parser.parse_args(
            server_arguments(recipe, tmp_path, "m", "127.0.0.1", 8000, tmp_path, 2, ["a.org", "b.org"])
        )
        assert parsed.allowed_media_domains == ["a.org", "b.org"]
        api_server.validate_parsed_serve_args(parsed)
        assert parsed.port == 8000 and parsed.media_io_kwargs == {"video": {"fps": 2.0, "num_frames": 4}}
        assert callable(api_server.cli_env_setup) and callable(api_server.run_server)
        assert parsed.trust_remote_code is recipe.model.trust_remote_code


def test_all_gpus_of_a_node_serve(tiny_recipe, monkeypatch):
    cuda = tiny_recipe("cluster.device=cuda", "vllm.tensor_parallel_size=2", "rl.rollout.tensor_parallel_size=1")
    for there, copies in ((8, 4), (2, 1), (1, 1)):
        monkeypatch.setattr(serve, "seen_gpus", lambda there=there: ["gpu"] * there)
        assert serve.copies_here(cuda) == copies and serve.copies_here(tiny_recipe()) == 1
    options = server_arguments(cuda, Path("m"), "m", "127.0.0.1", 8000, None, 4)
    assert "--data-parallel-size=4" in options and "--tensor-parallel-size=2" in options


def test_a_request_reads_what_was_named_and_nothing_else(tmp_path, monkeypatch):
    """Of the network nothing by itself, no redirect, and no path in an answer."""
    for key, value in MEDIA_ENV.items():
        monkeypatch.setenv(key, value)
    from vllm import envs
    from vllm.exceptions import VLLMNotFoundError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from launch.engines.vllm.media import NAME

    envs.disable_envs_cache()  # an engine of another test may have filled it
    assert envs.VLLM_MEDIA_CONNECTOR == NAME and envs.VLLM_MEDIA_URL_ALLOW_REDIRECTS is False
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")

    def read(url: str, **allowed: Any) -> Any:
        connector = MEDIA_CONNECTOR_REGISTRY.load(NAME, allowed_local_media_path=str(folder), **allowed)
        return connector.fetch_video(url)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        for allowed in ({}, {"allowed_media_domains": ["example.org"]}):
            with pytest.raises(ValueError, match="fetches nothing from there"):
                read(address, **allowed)
        with pytest.raises(TimeoutError):
            server.accept()  # nobody has knocked
    for url in (f"file://{tmp_path}/secret.mp4", f"file://{folder}/../secret.mp4", f"file://{folder}/link.mp4"):
        with pytest.raises(ValueError, match="not below the folder") as refused:
            read(url)
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(VLLMNotFoundError, match="no such file") as missing:  # answered with 404
        read(f"file://{folder}/gone.mp4")
    assert str(tmp_path) not in str(missing.value)


def test_images_are_read_by_the_same_rule(tmp_path, tiny_recipe, monkeypatch):
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from launch.engines.vllm.media import NAME, take_usual_pictures_only

    folder = tmp_path / "media"
    folder.mkdir()
    for place in (folder, tmp_path):
        Image.new("RGB", (60, 40), "red").save(place / "a.png")
    connector = MEDIA_CONNECTOR_REGISTRY.load(NAME, allowed_local_media_path=str(folder))
    assert connector.fetch_image(f"file://{folder}/a.png").size == (60, 40)
    for url, why in (
        (f"file://{tmp_path}/a.png", "not below the folder"),
        ("http://127.0.0.1:9/a.png", "nothing from"),
    ):
        with pytest.raises(ValueError, match=why):
            connector.fetch_image(url)
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    take_usual_pictures_only()
    page = b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n").decode()
    with pytest.raises(ValueError, match="load image"):  # answered with 400
        connector.fetch_image(f"data:image/png;base64,{page}")
    assert not (tmp_path / "started").exists()
    recipe = with_images(tiny_recipe(), 3, 50_176)
    options = server_arguments(recipe, Path("m"), "m", "127.0.0.1", 8000, folder)
    assert '--limit-mm-per-prompt={"image": 3, "video": 1}' in options


def test_the_example_asks_as_in_training(tiny_recipe):
    recipe = tiny_recipe("prompt.system=Look.", "prompt.instructions.ota.default=Think.")
    sample = Sample.model_construct(task="binary", question="Does the camera pan to the left?", options=["Yes", "No"])
    system, user = request(recipe, "m")["messages"]
    clip, text = user["content"]
    turns = messages(sample, recipe.prompt)
    assert system == turns[0] and clip["type"] == "video_url" and "<video>" + text["text"] == turns[1]["content"]


def test_a_port_out_of_range_is_refused():
    with pytest.raises(UsageError, match="port: .*65535"):
        parse(ServeArguments, ["port=70000"])

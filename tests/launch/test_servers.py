"""The servers of chain synthesis fit the GPUs of a node, and do not get in each other's way."""

import re
import shlex

import pytest

from data_tools.cli import parse
from data_tools.synthesis.settings import Settings
from launch.compose import compose_recipe
from launch.errors import LaunchError
from launch.planning.servers import serve_commands
from launch.recipe import Recipe
from launch.serve import ServeArguments
from launch.synthesize import settings_of


def settings_and_recipe(*overrides: str) -> tuple[Settings, Recipe]:
    given = ["experiment=camreasoner", "synthesis=camreasoner", "synthesis.samples=s", "synthesis.out=o"]
    given += ["synthesis.media_root=m", "synthesis.endpoint.url=http://127.0.0.1:8000/v1", *overrides]
    recipe, _ = compose_recipe(given)
    return settings_of(recipe, given), recipe


def commands(*overrides: str) -> list[str]:
    settings, recipe = settings_and_recipe(*overrides)
    return serve_commands(recipe, settings)


def devices(line: str) -> list[int]:
    return [int(number) for number in re.match(r"CUDA_VISIBLE_DEVICES=([\d,]+) ", line)[1].split(",")]


def test_one_node_holds_generator_and_judge_side_by_side():
    generator, judge = commands()
    assert devices(generator) == [0, 1, 2, 3] and devices(judge) == [4, 5]
    words = shlex.split(generator)[1:]
    assert words[:3] == ["python", "-m", "launch.serve"]
    served = parse(ServeArguments, words[3:])
    assert (served.model, served.gpus, served.port) == ("Qwen/Qwen2.5-VL-72B-Instruct", 4, 8000)
    assert served.experiment == "camreasoner"
    assert "--tensor-parallel-size=2" in judge and judge.endswith("--port 8001")


def test_a_judge_that_sees_the_clips_is_served_as_the_generator_is():
    generator, judge = commands("synthesis=camreasoner_vl")
    assert devices(generator) == [0, 1, 2, 3] and devices(judge) == [4, 5]
    served = parse(ServeArguments, shlex.split(judge)[4:])
    assert (served.model, served.gpus, served.port) == ("Qwen/Qwen3-VL-32B-Instruct", 2, 8001)


def test_models_that_do_not_fit_together_are_served_one_after_the_other():
    generator, advice, judge = commands("cluster.gpus_per_node=4")
    assert devices(generator) == [0, 1, 2, 3] and devices(judge) == [0, 1]
    assert advice.startswith("#") and "synthesis.filters='[format, hindsight, accuracy]'" in advice


def test_a_server_of_each_address_and_gpus_of_each_host():
    lines = commands(
        "synthesis.endpoint.url=[http://a:8000/v1,http://b:8000/v1]", "synthesis.judge.url=http://b:8001/v1"
    )
    assert [devices(line) for line in lines] == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5]]
    assert [shlex.split(line)[-2] for line in lines[:2]] == ["host=a", "host=b"]


def test_a_judge_by_rule_needs_no_server():
    assert len(commands("synthesis.judge.name=rules")) == 1


def test_the_server_may_read_the_clips_that_requests_name_by_their_path():
    settings, recipe = settings_and_recipe("synthesis.send=file")
    assert f"media={settings.clips.absolute()}" in serve_commands(recipe, settings)[0]
    assert settings.clips.name == "clips" and settings.budget == recipe.budget


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster=one_gpu"], "147 GB of weights need 4 GPUs of 80 GB, a node has 1"),
        (["cluster=laptop_cpu"], "cluster=node_8gpu"),
        (["synthesis.judge.url=http://127.0.0.1:8000/v1"], "judge.url: 127.0.0.1:8000 is another server's"),
    ],
)
def test_what_cannot_be_served_is_refused(overrides, message):
    with pytest.raises(LaunchError, match=message):
        commands(*overrides)


def test_the_study_of_the_clips_must_be_named():
    recipe, _ = compose_recipe(["synthesis=demo"])
    assert settings_of(recipe, []).budget is None  # rendered clips are in their budget
    settings, recipe = settings_and_recipe()
    with pytest.raises(LaunchError, match="name the study"):
        settings_of(recipe, ["synthesis=camreasoner"])

"""The numbers of docs/studies are the plan's; that their commands compose, tests/test_docs.py tests."""

import re

import pytest

from launch.compose import compose_recipe
from launch.planning.show import rows
from launch.planning.time import hours as of_stage
from launch.planning.time import step_seconds
from launch.recipe import ROOT

STUDIES = ROOT / "docs" / "studies"
PAGE = (STUDIES / "videochat_r1.md").read_text()
MOMENTS, VIDEOS, SEQUENCES, QUESTIONS = 12_404, 5_336, 9_335, 3_358  # of the published files, those that can be used
SAMPLES = {
    "all three tasks, every moment": MOMENTS + SEQUENCES + QUESTIONS,
    "all three tasks, `data.one_per_video=[charades_sta]`": VIDEOS + SEQUENCES + QUESTIONS,
    "`+ablation=videochat_r1_sta`": MOMENTS,
    "`+ablation=videochat_r1_gqa`": QUESTIONS,
    "`+ablation=videochat_r1_got`": SEQUENCES,
    "`+ablation=videochat_r1_sta_gqa`": MOMENTS + QUESTIONS,
    "`+ablation=videochat_r1_captions`": 1_000,
    "`+ablation=videochat_r1_quality`": 200,
}
ROWS = re.findall(r"^\| (.+?) \| (\d+) \| (.+?) \|$", PAGE, re.MULTILINE)


def test_the_page_has_every_run():
    assert [run for run, *_ in ROWS] == list(SAMPLES)


@pytest.mark.parametrize(("run", "steps", "hours"), ROWS, ids=[run for run, *_ in ROWS])
def test_steps_and_hours_of_the_page_are_the_plan_s(run, steps, hours):
    overrides = re.findall(r"`(.+?)`", run)
    recipe, _ = compose_recipe(["experiment=videochat_r1", "data=videochat_r1_published", *overrides])
    count, rl = SAMPLES[run] // recipe.rl.rollout_batch_size * recipe.rl.epochs, step_seconds(recipe)
    assert int(steps) == count and rl is not None
    gpus = recipe.cluster.nodes * recipe.cluster.gpus_per_node
    assert hours == (of_stage(recipe, rl * count) * gpus).show("h").replace(" h", "")


@pytest.mark.parametrize(
    ("page", "overrides"),
    [
        ("camreasoner", ["experiment=camreasoner"]),
        ("camreasoner", ["experiment=camreasoner_authors"]),
        ("videop2r", ["experiment=videop2r", "judge.model=Qwen/Qwen3-32B"]),
    ],
)
def test_hours_of_rl_on_a_page_are_the_plan_s(page, overrides):
    _, _, took = dict(rows(*compose_recipe(overrides)))["RL time"].partition(" a step, ")
    assert took.endswith(")") and took in " ".join((STUDIES / f"{page}.md").read_text().split())

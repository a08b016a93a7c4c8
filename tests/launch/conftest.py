"""A tiny recipe whose runs are written under the test's own folder.

Its reward is the paper's, as samples of files need; the demo's asks for clips whose camera track is known.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from launch.compose import read_recipe
from launch.recipe import ROOT, Recipe


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def make(*overrides: str) -> Recipe:
        if not any(override.startswith(("reward=", "experiment=")) for override in overrides):
            overrides = ("reward=camreasoner", *overrides)
        config = deepcopy(_composed(overrides))
        if not any(override.startswith("runs=") for override in overrides):
            config.runs = str(tmp_path / "runs")
        return read_recipe(config)

    return make


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        return compose("config", list(overrides))

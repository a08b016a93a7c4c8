"""A tiny recipe whose runs are written under the test's own folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from launch.recipe import ROOT, Recipe, read_recipe


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def make(*overrides: str) -> Recipe:
        with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
            return read_recipe(compose("config", [f"runs={tmp_path / 'runs'}", *overrides]))

    return make

from pathlib import Path

import pytest
from chain import STAGES, run


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The run folder of an unbroken smaller demo, for all tests to read."""
    runs = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        run(stage, runs)
    return runs / "demo" / "main"

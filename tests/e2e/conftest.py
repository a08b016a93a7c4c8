import os
from pathlib import Path

import pytest
from chain import run
from filelock import FileLock

from launch.stages import STAGES


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The run folder of an unbroken smaller demo, for all tests to read; one for both workers of `make test`."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    runs = shared / "runs"
    folder = runs / "demo" / "main"
    with FileLock(shared / "runs.lock"):
        if not (folder / "report" / "index.html").exists():
            for stage in STAGES:
                run(stage, runs)
    return folder

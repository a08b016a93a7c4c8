"""Two ranks whose micro-batches show different media: neither waits for ever, and both train as one would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, float]:
    side, folder = Path(__file__).with_name("ranks_side.py"), tmp_path_factory.mktemp("ranks")
    env = os.environ | {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(side.parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
    logs = [folder / "0.log", folder / "1.log"]
    ranks = [
        subprocess.Popen(
            [sys.executable, side, str(rank), str(folder / "store")],
            env=env,
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=logs[rank].open("w"),
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        out, _ = ranks[0].communicate(timeout=900)
        ended = [rank.wait(timeout=60) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ended == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)
    return json.loads(out.splitlines()[-1])


def test_ranks_of_different_media_give_the_gradients_of_one_process(found):
    assert len(found) == 3 * 2 + 5 * 5
    assert {case: by for case, by in found.items() if by > 1e-4} == {}

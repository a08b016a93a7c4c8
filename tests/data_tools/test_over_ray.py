"""Checking and normalising over Ray, on a node of our own: the same results as in one process, whoever is lost."""

import os
import signal
from functools import partial
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from made_videos import write_video

from data_tools import check as checking
from data_tools.media import budget, normalise, probe, store
from data_tools.media.child import ClipError
from data_tools.media.parallel import Threads
from data_tools.sample import Cut, Sample, write_samples
from launch.engines.ray.map import RayMap, WorkerError, connected

pytestmark = pytest.mark.e2e
BUDGET = budget.Budget(fps=2.0, max_frames=8, min_frames=4, max_pixels=28 * 28 * 12, min_pixels=784)
VIDEOS = 12


@pytest.fixture(scope="module", autouse=True)
def node():
    """Ray, once for all tests; what it puts into the environment is taken out again."""
    with patch.dict(os.environ):
        os.environ.pop("RAY_ADDRESS", None)
        with connected("local", 2):
            yield


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(VIDEOS):
        write_video(folder / f"{number}.mp4", seed=number, frames=8 + number)
    (folder / "empty.mp4").touch()
    (folder / "page.mp4").write_text("<!doctype html>")
    return folder


def videos() -> list[str]:
    return [f"{number}.mp4" for number in range(VIDEOS)] + ["empty.mp4", "page.mp4", "gone.mp4"]


def lost_once(work, marker: Path):
    """`work`, whose process is killed at its third video, the first time."""

    def deadly(*arguments):
        if arguments[-1].video == "3.mp4":
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return work(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments)

    return deadly


def test_the_node_is_ours_alone():
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert is_token_auth_enabled()
    sockets = [
        (process.name(), socket.laddr.ip)
        for process in psutil.Process().children(recursive=True)
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert {"gcs_server", "raylet"} <= {name for name, _ in sockets}
    assert {ip.removeprefix("::ffff:") for _, ip in sockets} == {"127.0.0.1"}


def test_what_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(RayMap("local", 1)(partial(divmod, 1), [0]))


@pytest.mark.parametrize("lost", [False, True])
def test_a_check_is_the_same(lost, root, tmp_path, monkeypatch):
    facts = {"question": "Does it move?", "options": ["No", "Yes"], "answer": "A", "task": "binary"}
    samples = [Sample(id=name, video=name, source="made", split="rl", **facts) for name in videos()]
    write_samples(tmp_path / "rl.jsonl", samples)
    here = checking.check_files([tmp_path / "rl.jsonl"], tmp_path / "here", root, Threads(1))
    if lost:
        monkeypatch.setattr(probe, "_probe_one", lost_once(probe._probe_one, tmp_path / "lost"))
    seen = []
    over = checking.check_files(
        [tmp_path / "rl.jsonl"],
        tmp_path / "over",
        root,
        RayMap("local", 2),
        progress=lambda *counts: seen.append(counts),
    )
    assert (tmp_path / "lost").exists() == lost
    assert seen == [(done, len(samples)) for done in range(1, len(samples) + 1)]
    assert over == here and (over.records, over.kept, over.quarantined) == (VIDEOS + 3, VIDEOS, 3)
    for name in ("clean.jsonl", "quarantine.jsonl", "index.html"):
        written = (tmp_path / "over" / name).read_text()  # the page names its folder
        assert written.replace(str(tmp_path / "over"), str(tmp_path / "here")) == (tmp_path / "here" / name).read_text()
    probes = [sorted((tmp_path / out / "probes.jsonl").read_text().splitlines()) for out in ("here", "over")]
    assert probes[0] == probes[1]


@pytest.mark.parametrize("lost", [False, True])
def test_clips_are_the_same(lost, root, tmp_path, monkeypatch):
    here = dict(store.normalise_all(list(map(Cut, videos())), root, tmp_path / "here", BUDGET, Threads(1)))
    if lost:
        monkeypatch.setattr(store, "_clip_or_fault", lost_once(store._clip_or_fault, tmp_path / "lost"))
    over = list(store.normalise_all(list(map(Cut, videos())), root, tmp_path / "over", BUDGET, RayMap("local", 2)))
    assert (tmp_path / "lost").exists() == lost
    assert len(over) == len(here) == VIDEOS + 3  # each once
    assert {name: facts(answer) for name, answer in over} == {name: facts(answer) for name, answer in here.items()}
    assert sum(isinstance(answer, normalise.Clip) for _, answer in over) == VIDEOS
    stores = [
        {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.suffix in (".mp4", ".json")}
        for store in (tmp_path / "here", tmp_path / "over")
    ]
    assert stores[0] == stores[1] and len(stores[0]) == 2 * VIDEOS
    logs = [sorted((tmp_path / out / "log.jsonl").read_text().split("\n")) for out in ("here", "over")]
    assert logs[0] == logs[1]


def facts(answer: normalise.Clip | ClipError) -> object:
    return answer if isinstance(answer, normalise.Clip) else (answer.reason, answer.message)


def test_an_item_that_no_worker_outlives_ends_the_work_in_one_line(monkeypatch):
    def deadly(item: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("launch.engines.ray.map.RETRIES", 1)
    with pytest.raises(WorkerError, match="Ray gave up on 7: ") as error:
        list(RayMap("local", 1)(deadly, [7]))
    assert "\n" not in str(error.value)

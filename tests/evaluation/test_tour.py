"""The recorded example of `make tour`: made from a run's report and viewer, small, and whole without a network."""

import json
import re
from pathlib import Path

import pytest
from chromium import CHROMIUM, browser
from made_rollouts import write_training

from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples
from evaluation.viewer.index import Index
from evaluation.viewer.query import overview
from launch import tour
from launch.errors import LaunchError


def require_whole(folder: Path) -> None:
    """Everything that the page refers to lies beside it."""
    page = (folder / "index.html").read_text()
    links = set(re.findall(r'(?:src|href)="([^"#]+)"', page)) | set(re.findall(r'"(clips/\w+\.mp4)"', page))
    assert not [link for link in links if not link.startswith("data:image/") and not (folder / link).is_file()]
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= tour.LARGEST


def test_a_run_becomes_a_tour_that_stands_alone(run: Path, tmp_path: Path, monkeypatch):
    folder = tmp_path / "tour"
    (folder / "clips").mkdir(parents=True)
    (folder / "clips/old.mp4").touch()
    monkeypatch.setattr(tour, "QUESTIONS", 5)
    assert tour.record(RunFolder(run), folder) == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    require_whole(folder)
    assert "5 of 12 test questions" in (folder / "index.html").read_text()
    assert not list(folder.glob("*.png")) and not (folder / "clips/old.mp4").exists()
    assert not (run / "report").exists()


def test_a_tour_that_is_too_large_or_names_a_folder_leaves_the_old_one(run: Path, tmp_path: Path, monkeypatch):
    folder = tmp_path / "tour"
    folder.mkdir()
    (folder / "index.html").write_text("old")
    with (run / "recipe.yaml").open("a") as recipe:
        recipe.write(f"runs: {run}/\n")
    with pytest.raises(LaunchError, match="a folder of this machine"):
        tour.record(RunFolder(run), folder)
    monkeypatch.setattr(tour, "LARGEST", 1000)
    with pytest.raises(LaunchError, match="more than 1000"):
        tour.record(RunFolder(run), folder)
    assert (folder / "index.html").read_text() == "old"


def test_a_tour_holds_a_part_of_what_the_viewer_shows(run: Path, tmp_path: Path, monkeypatch):
    write_training(run, list(read_samples(run / "eval/test/samples.jsonl")), steps=6)
    monkeypatch.setattr(tour, "GROUPS", 4)
    tour.record(RunFolder(run), tmp_path / "tour")
    told = (tmp_path / "tour/viewer/data/runs.js").read_text()
    views = json.loads(told.partition(",")[2].rstrip()[:-1])["runs"][0]["views"]
    assert [(each["step"], each["groups"]) for each in views[0]["steps"]] == [(1, 4), (3, 4), (6, 4)]
    assert [each["groups"] for each in views[1]["steps"]] == [4]
    assert len(list((tmp_path / "tour/viewer/clips").iterdir())) <= 8
    index = Index(RunFolder(run))
    assert [len(each["steps"]) for each in overview(index)] == [6, 1]  # the run's own index is as it was


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_tour_leads_to_the_viewer_and_back_without_a_network(run: Path, tmp_path: Path):
    write_training(run, list(read_samples(run / "eval/test/samples.jsonl")))
    tour.record(RunFolder(run), tmp_path / "tour")
    with browser() as page:
        page.send("Network.enable")
        page.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        page.open((tmp_path / "tour/index.html").as_uri())
        link = f"document.querySelector('a[href=\"{tour.VIEWER}\"]')"
        page.until(f"document.readyState === 'complete' && !!{link}")
        page.run(f"{link}.click()")
        page.until("document.querySelectorAll('.group').length === 5")  # of the newest step
        if page.run("document.createElement('video').canPlayType('video/mp4; codecs=avc1.42E01E')"):
            page.until("document.querySelector('video').readyState > 0")
        page.run("document.querySelector('a[href=\"../index.html\"]').click()")
        page.until(f"document.readyState === 'complete' && !!{link}")
        assert page.errors == []


@pytest.mark.skipif(not tour.TOUR.exists(), reason="nothing is recorded yet")
def test_the_recorded_tour_is_whole():
    require_whole(tour.TOUR)

"""The recorded example of `make tour`: made from a run's report, small, and whole without a network."""

import re
from pathlib import Path

import pytest

from data_tools.run_folder import RunFolder
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


@pytest.mark.skipif(not tour.TOUR.exists(), reason="nothing is recorded yet")
def test_the_recorded_tour_is_whole():
    require_whole(tour.TOUR)

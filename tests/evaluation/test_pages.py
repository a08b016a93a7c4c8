"""Reports and checks in headless Chromium: no error, and no sentence cut at the right, on a desktop and on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page, browser

from data_tools.check import check_files
from data_tools.contact_sheet import write_contact_sheet
from data_tools.prompt import Form
from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples, write_samples
from evaluation.report.page import write_report

LONG = "a_rather_long_name_without_any_space_" * 3
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SEEN = """(() => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const prose = "p, li, dd, h1, h2, h3, caption, summary, .said, .results td";
  const width = document.documentElement.clientWidth;
  const cut = [...document.querySelectorAll(prose)].filter(
    each => each.getClientRects().length && each.getBoundingClientRect().right > width + 1);
  return [document.documentElement.scrollWidth - width, cut.map(each => each.textContent.slice(0, 60))];
})()"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


def require_readable(page: Page, path: Path, width: int) -> None:
    page.errors.clear()
    page.size(width, 800)
    page.open(path.as_uri())
    page.until(f"location.href === {path.as_uri()!r} && document.readyState === 'complete'")
    assert (page.run(SEEN), page.errors) == ([0, []], [])


def test_a_report_is_read_without_scrolling_sideways(page: Page, run: Path):
    write_report(RunFolder(run))
    for width in (390, 1280):
        require_readable(page, run / "report/index.html", width)


def test_a_check_is_read_on_a_phone(page: Page, run: Path, tmp_path: Path):
    samples = list(read_samples(run / "data/test.jsonl"))
    long = samples[0].model_copy(update={"id": "a-rather-long-id-" * 4, "video": "a/rather/long/name/" * 4 + "a.mp4"})
    path = tmp_path / f"{LONG}.jsonl"
    write_samples(path, [*samples, long])
    check_files([path], tmp_path / "out", run / "data")
    require_readable(page, tmp_path / "out/index.html", 390)


def test_a_contact_sheet_is_read_without_scrolling_sideways(page: Page, run: Path, tmp_path: Path):
    there = RunFolder(tmp_path / LONG / "main")
    (there.data / "clips").mkdir(parents=True)
    shown = next(read_samples(run / "data/test.jsonl"))
    shutil.copy(run / "data" / shown.video, there.data / "clips/a.mp4")
    long = {"id": LONG, "video": "clips/a.mp4", "question": f"Is this {LONG}?"}
    write_samples(there.samples("test"), [shown.model_copy(update=long)])
    sheet = write_contact_sheet(there, ["test"], Form())
    for width in (390, 1280):
        require_readable(page, sheet, width)

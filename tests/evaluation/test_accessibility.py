"""The pages by axe-core's rules, on a desktop and a phone, light and dark; and the contrast of the colours they name.

axe-core comes from npm: `npm install axe-core` in any folder, then CAMREASONER_AXE=…/node_modules/axe-core/axe.min.js.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page, browser
from made_rollouts import write_training, write_twins
from omegaconf import OmegaConf

from data_tools.check import check_files
from data_tools.contact_sheet import write_contact_sheet
from data_tools.prompt import Form
from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples, write_samples
from data_tools.synthesis.outcome import funnel, review_sheet
from data_tools.synthesis.settings import Settings
from evaluation.report.page import write_report
from evaluation.viewer.folder import write_folder
from evaluation.viewer.index import Index
from launch import tour
from launch.compose import compose_config
from launch.recipe import ROOT

AXE = os.environ.get("CAMREASONER_AXE")
by_axe = pytest.mark.skipif(
    not (CHROMIUM and AXE), reason="needs Chromium, and CAMREASONER_AXE: axe.min.js of axe-core"
)
VIOLATIONS = """(async () => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const found = await axe.run(document, {resultTypes: ["violations"]});
  return found.violations.flatMap(
    ({id, impact, nodes}) => nodes.map(each => `${impact} ${id}: ${each.html.slice(0, 200)}`));
})()"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        opened.send("Page.setBypassCSP", enabled=True)  # a page that allows no script is looked at by one
        yield opened


def require_accessible(page: Page, path: Path, shown: str = "true") -> None:
    """axe finds nothing wrong with a page once `shown` holds, at both widths and in both colour schemes."""
    axe, address = Path(str(AXE)).read_text(encoding="utf-8"), path.as_uri()
    for scheme in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for width in (390, 1280):
            page.size(width, 900)
            page.open("about:blank")
            page.open(address)
            page.until(f"location.href === {address!r} && document.readyState === 'complete' && {shown}")
            page.run(f"{axe}; true")
            assert page.run(VIOLATIONS) == [], (scheme, width)


@by_axe
def test_a_report_is_accessible(page: Page, run: Path):
    write_report(RunFolder(run))
    require_accessible(page, run / "report/index.html")


@by_axe
def test_a_check_is_accessible(page: Page, run: Path, tmp_path: Path):
    samples = list(read_samples(run / "data/test.jsonl"))
    write_samples(
        tmp_path / "test.jsonl", [*samples, samples[0].model_copy(update={"id": "gone", "video": "gone.mp4"})]
    )
    check_files([tmp_path / "test.jsonl"], tmp_path / "out", run / "data")
    require_accessible(page, tmp_path / "out/index.html")


@by_axe
def test_a_contact_sheet_is_accessible(page: Page, run: Path):
    require_accessible(page, write_contact_sheet(RunFolder(run), ["test"], Form()))


@by_axe
def test_a_review_of_chains_is_accessible(page: Page, run: Path, tmp_path: Path):
    config = compose_config(["synthesis=demo", f"synthesis.media_root={run}/data", f"synthesis.out={tmp_path}"])
    settings = Settings.model_validate(OmegaConf.to_container(config.synthesis, resolve=True))
    kept, _, dropped, *_ = read_samples(run / "data/test.jsonl")
    chain = "<observation>seen</observation><think>thought</think><answer>A</answer>"
    cards = [
        {"sample": kept, "chain": chain, "outcome": "kept"},
        {"sample": dropped, "chain": "odd", "outcome": "dropped", "by": "format", "detail": "missing answer"},
    ]
    counts = {"kept": 1, "dropped": 1, "failed": 0, "pending": 0, "samples": 2, "dropped_by": {"format": 1}}
    sheet = review_sheet(settings, counts, funnel(counts, settings.reference), cards)
    (tmp_path / "review.html").write_text(sheet, encoding="utf-8")
    require_accessible(page, tmp_path / "review.html")


@by_axe
def test_the_viewer_is_accessible(page: Page, run: Path, tmp_path: Path):
    samples = list(read_samples(run / "eval/test/samples.jsonl"))
    write_training(run, samples)
    write_twins(run, 3, samples[0])
    index = Index(RunFolder(run))
    index.refresh()
    require_accessible(page, write_folder([index], tmp_path / "page"), "!!document.querySelector('.group')")


@by_axe
def test_a_tour_is_accessible(page: Page, run: Path, tmp_path: Path):
    write_training(run, list(read_samples(run / "eval/test/samples.jsonl")))
    tour.record(RunFolder(run), tmp_path / "tour")
    require_accessible(page, tmp_path / "tour/index.html")
    require_accessible(page, tmp_path / "tour" / tour.VIEWER, "!!document.querySelector('.group')")


# ------------------------------------------------------------------ contrast, without a browser

TEXT = {"ink", "soft", "good", "bad", "observation", "think", "answer", "up", "down"}  # 4.5:1, WCAG 2.2, 1.4.3
MARKS = {"base", "sft", "rl", "bar"}  # dots, lines and bars: 3:1, 1.4.11
BEHIND = {"page", "card"}
SHARED = "evaluation/report/style.css.j2"
PAGES = [
    [SHARED],
    [SHARED, "evaluation/viewer/viewer.css.j2"],
    ["data_tools/check.html.j2"],
    ["data_tools/contact_sheet.html.j2"],
]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


DARK = re.compile(r"@media \(prefers-color-scheme: dark\) \{(.*?\}\s*)\}", re.DOTALL)


def colours(files: list[str], scheme: str) -> dict[str, str]:
    """The variables of style sheets that hold a colour, in a scheme."""
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
    light, dark = "".join(DARK.sub("", text) for text in texts), "".join("".join(DARK.findall(text)) for text in texts)
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light + (dark if scheme == "dark" else "")))


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("files", PAGES, ids=lambda files: Path(files[-1]).stem)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_what_is_behind_them(files: list[str], scheme: str):
    found = colours(files, scheme)
    assert {"page", "ink", "soft"} <= found.keys() <= TEXT | MARKS | BEHIND | {"line"}
    for name in found.keys() & (TEXT | MARKS):
        least = 4.5 if name in TEXT else 3
        for behind in found.keys() & BEHIND:
            assert contrast(found[name], found[behind]) >= least, f"--{name} on --{behind}"


def test_the_review_of_chains_has_text_that_stands_out_from_white():
    style = (ROOT / "data_tools/synthesis/review.html.j2").read_text(encoding="utf-8")
    found = re.findall(r"(?<![-\w])color: #([0-9a-f]{3,6})", style)
    assert len(found) > 2
    for colour in found:
        assert (
            contrast("#" + "".join(2 * each for each in colour) if len(colour) == 3 else f"#{colour}", "#ffffff") >= 4.5
        )

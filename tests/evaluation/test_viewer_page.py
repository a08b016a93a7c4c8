"""The viewer's page in headless Chromium, from the command's own server and from a written folder."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from chromium import CHROMIUM, Page, browser
from made_rollouts import ATTACK, rollout, write_step, write_training, write_twins

from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples
from evaluation.viewer.folder import write_folder
from evaluation.viewer.index import Index

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SIDES = "[...document.querySelectorAll('.group')].map(group => group.querySelectorAll('.side').length)"
WIDEST = """Math.max(document.documentElement.scrollWidth,
  ...[...document.querySelectorAll('.group *, #numbers *, #found')].map(each => each.getBoundingClientRect().right))"""


class Served(NamedTuple):
    address: str
    process: subprocess.Popen
    runs: list[Path]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def served(two_runs: list[Path]) -> Iterator[Served]:
    for run, learnt in zip(two_runs, (2, 1)):
        write_training(run, list(read_samples(run / "eval/test/samples.jsonl")), learnt=learnt)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "launch.watch", *map(str, two_runs), f"port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and "Ctrl-C" in process.stdout.readline()
        yield Served(f"http://127.0.0.1:{port}/", process, two_runs)
    finally:
        process.kill()
        process.wait()


def opened(page: Page, address: str, width: int = 1400) -> None:
    page.errors.clear()
    page.size(width, 900)
    page.open("about:blank")
    page.open(address)
    page.until("document.querySelectorAll('.group').length")


def choose(page: Page, id: str, value: str) -> None:
    page.run(f"{{const s = byId('{id}'); s.value = '{value}'; s.dispatchEvent(new Event('change'))}}")


def click(page: Page, selector: str) -> None:
    page.until(f"!!document.querySelector(`{selector}:not(:disabled)`)")
    page.run(f"document.querySelector(`{selector}`).click()")


def test_a_click_leads_to_the_odd_rollout_whose_text_is_never_html(served: Served, page: Page):
    opened(page, served.address)
    assert page.run("byId('step').textContent") == "step 2"  # the newest
    click(page, "#bars button")
    page.until("byId('step').textContent === 'step 1'")
    click(page, "[data-only=malformed]")
    page.until("byId('found').textContent === '1 prompts, 1 shown'")
    assert page.run("document.querySelector('.answer.odd .raw').textContent") == f"{ATTACK} <answer>{ATTACK}</answer>"
    assert page.run("document.querySelector('.answer.odd').innerText").count("missing observation") == 1
    assert page.run("[document.querySelectorAll('#groups script, #groups .raw img').length, typeof attacked]") == [
        0,
        "undefined",
    ]
    address = page.run("location.href")
    opened(page, address)
    assert page.run("byId('found').textContent") == "1 prompts, 1 shown"
    choose(page, "order", "lowest")
    click(page, "[data-only=all]")
    page.until("byId('found').textContent.startsWith('5 ')")
    assert page.run("document.querySelector('.group').innerText").count("advantage −9.00") == 1
    assert page.errors == []


def test_two_runs_and_two_steps_stand_side_by_side(served: Served, page: Page):
    opened(page, f"{served.address}#step=1")
    choose(page, "beside", "1")
    page.until("document.querySelectorAll('[data-only=differs]').length")
    click(page, "[data-only=differs]")
    page.until(f"{SIDES}.toString() === '2,2,2,2,2'")  # wrong in the first run's step 1, right in the second's
    assert "second, step 1" in page.run("document.querySelectorAll('.side h3')[1].textContent")
    opened(page, f"{served.address}#beside=0&there=before&only=flipped")
    page.until(f"{SIDES}.toString() === '2,2,2,2,2'")
    heads = page.run("[...document.querySelectorAll('.group')[0].querySelectorAll('h3')].map(each => each.textContent)")
    assert heads[0].startswith("step 2") and "was wrong before" in heads[0] and heads[1].startswith("step 1")
    click(page, "#views button:last-child")
    page.until("byId('found').textContent.endsWith('12 shown')")
    assert page.run("document.querySelectorAll('.group')[0].querySelectorAll('.answer').length") == 3  # models
    assert page.errors == []


def test_a_phone_needs_no_sideways_scrolling(served: Served, page: Page):
    for view in ("", "#step=1&only=malformed&beside=1", "#view=set+test"):
        opened(page, served.address + view, width=390)
        assert page.run(WIDEST) <= 390, view
    assert page.errors == []


def test_a_new_step_appears_while_one_looks(served: Served, page: Page):
    opened(page, served.address)
    samples = list(read_samples(served.runs[0] / "eval/test/samples.jsonl"))
    write_step(served.runs[0], 3, [rollout(samples[0], 3, 0, 0, True, response="<answer>new</answer>")])
    page.until("byId('step').textContent === 'step 3' && document.querySelectorAll('.group').length === 1")
    assert page.errors == []


def test_a_written_folder_opens_without_a_server(served: Served, page: Page, tmp_path: Path):
    indexes = [Index(RunFolder(run)) for run in served.runs]
    for index in indexes:
        index.refresh()
    opened(page, write_folder(indexes, tmp_path / "page").as_uri() + "#step=1&beside=1")
    click(page, "[data-only=mismatch]")
    page.until("byId('found').textContent === '1 prompts, 1 shown'")
    assert page.run(SIDES) == [2]
    if page.run("document.createElement('video').canPlayType('video/mp4; codecs=avc1.42E01E')"):
        page.until("document.querySelector('video').readyState > 0")
    assert page.errors == []


def test_a_question_and_its_twin_stand_side_by_side_with_their_clips(served: Served, page: Page, tmp_path: Path):
    run = served.runs[0]
    write_twins(run, 5, next(read_samples(run / "eval/test/samples.jsonl")))
    index = Index(RunFolder(run))
    index.refresh()
    written = write_folder([index], tmp_path / "page").as_uri()
    opened(page, written + "#step=5")
    assert page.run(SIDES) == [2, 2, 2, 2]
    click(page, "[data-only=twins]")
    page.until("byId('found').textContent === '2 prompts, 2 shown'")
    heads = page.run("[...document.querySelectorAll('.side + .side h3')].map(each => each.textContent)")
    assert heads[0].startswith("mirrored") and heads[1].startswith("not mirrored") and "twins disagree" in heads[0]
    assert page.run("document.querySelectorAll('.group video').length") == 4
    opened(page, written + "#step=5&only=twins", width=390)
    assert page.run(WIDEST) <= 390
    assert page.errors == []


def test_ctrl_c_ends_it_without_an_error(served: Served):
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=60) == 0

"""Run folders that somebody else made: their pages show what lies in them, and nothing of this machine."""

import json
from pathlib import Path

import pytest

from data_tools.media.child import ClipError
from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples
from evaluation.report.page import write_report
from evaluation.runs import RunError
from evaluation.viewer.sources import media_root

ATTACK = "<img src=x onerror='window.attacked = 1'>$\\frac{ ${a} {{b}} \x1b[2J"


@pytest.mark.parametrize("root", ["/", "..", "data/../../elsewhere"])
def test_media_of_a_set_lie_in_the_run(run: Path, root: str):
    facts = run / "eval/test/set.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"root": root}))
    with pytest.raises(RunError, match=r"set\.json: root: .* lies outside of the run"):
        write_report(RunFolder(run))
    with pytest.raises(RunError, match="lies outside of the run"):
        media_root(RunFolder(run), "set test")


def test_a_report_shows_no_clip_from_outside_of_the_run(run: Path):
    clip = run / "data" / next(read_samples(run / "data/test.jsonl")).media[0]
    secret = run.parent.parent / "secret.mp4"
    clip.rename(secret)
    clip.symlink_to(secret)
    with pytest.raises(ClipError, match="leads out of the media root"):
        write_report(RunFolder(run))


def test_names_of_models_and_stages_are_text(run: Path, evaluate):
    samples = list(read_samples(run / "data/test.jsonl"))
    evaluate(
        run, ATTACK, [{"id": sample.id, "response": ATTACK, "finish_reason": "stop"} for sample in samples], samples
    )
    record = run / "stages/rl.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"stage": ATTACK, "started": ATTACK}))
    write_report(RunFolder(run))
    page = (run / "report/index.html").read_text()
    assert "<img src=x" not in page and "\x1b" not in page and "&lt;img src=x" in page

"""docs/howto.md, "Your own clips in ten minutes", as its reader would do it: what needs no engine is run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_tools.rendered.scene import write_clip
from launch import rehearse
from launch.compose import compose_complete
from launch.recipe import ROOT

NEED_ENGINES = {"launch.rehearse", "launch.model", "launch.rl", "launch.merge", "launch.evaluate", "launch.report"}
NEED_ENGINES |= {"launch.watch"}  # it serves what they leave
CLIPS = 20  # of each table


def section() -> str:
    page = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
    return page.partition("## Your own clips in ten minutes\n")[2].partition("\n## ")[0]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL)


def commands(line: str) -> list[list[str]]:
    """The modules with their arguments that a line of the page runs; `make` says which are its own."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["make"]:
        told = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [shlex.split(each)[2:] for each in told.splitlines() if " -m launch." in each]
    return [words[2:]] if words[:2] == ["python", "-m"] else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the reader has: clips in a folder whose name has a space, two tables, the recipe."""
    videos = tmp_path / "my videos"
    header, *rows = blocks("csv")[0].splitlines()
    for split, first in (("rl", 0), ("test", CLIPS)):
        lines = [header]
        for number in range(first, first + CLIPS):
            name, rest = rows[number % len(rows)].split(",", 1)
            lines.append(f"{number}/{name},{rest}")
            clip = np.random.default_rng(number).integers(0, 255, (20, 60, 100, 3), np.uint8)
            (videos / str(number) / name).parent.mkdir(parents=True)
            write_clip(videos / str(number) / name, clip, fps=10.0)
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (recipe,) = blocks("yaml")
    (tmp_path / "recipes/experiment").mkdir(parents=True)
    (tmp_path / "recipes/experiment/first.yaml").write_text(recipe.replace("/videos", f'"{videos}"'))
    return tmp_path


@pytest.mark.e2e
def test_every_command_before_the_engines_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAMREASONER_RECIPES", str(folder / "recipes"))
    run, left = [], set()
    for module, *arguments in [each for line in "".join(blocks("bash")).splitlines() for each in commands(line)]:
        if module in NEED_ENGINES or (module == "launch.data" and "launch.data" in run):
            left.add(module)
            continue
        given = [word.replace("/videos", f"{folder}/my videos") for word in arguments]
        given += [f"runs={folder}/runs"] if module.startswith("launch.") else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", module, *given], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{module} {given}\n{done.stdout}{done.stderr}"
        run.append(module)
    assert run == ["data_tools.sources", "data_tools.sources", "data_tools.check", "launch.plan", "launch.data"]
    assert left == NEED_ENGINES | {"launch.data"}
    assert "0 quarantined" in (folder / "check/index.html").read_text()
    sheet = (folder / "runs/first/main/data/contact_sheet.html").read_text()
    assert sheet.count("<article>") == 2 * 2 * 3 and "Which way does the camera pan?" in sheet


def test_its_rehearsal_and_its_run_compose(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAMREASONER_RECIPES", str(folder / "recipes"))
    small = compose_complete(rehearse.overrides_of(["experiment=first"]))
    assert (small.experiment, small.name, small.rl.steps, small.rl.start_epoch) == ("rehearsal", "first", 2, 0)
    whole = compose_complete(["experiment=first", "size=small"])
    assert whole.model.path is None and whole.rl.rollout_batch_size == 16 and whole.cluster.device == "cpu"

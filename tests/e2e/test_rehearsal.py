"""The three studies and an experiment of a user's own, rehearsed as `make rehearse` does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chain import lines

from data_tools.rehearsal import words
from data_tools.rehearsal.clips import Camera
from data_tools.run_folder import SCORES, RunFolder
from evaluation.printed import papers
from launch.compose import compose_complete
from launch.recipe import ROOT
from launch.rehearse import overrides_of

RL_TASKS = {
    "camreasoner": {"binary"},
    "videop2r": {"choice", "numerical", "regression", "ocr", "open_ended"},
    "videochat_r1": {"temporal_grounding", "grounded_qa", "tracking"},
    "mine": {"binary"},
}


def own_experiment(code: Path, clips: Path) -> None:
    """Clips of a user, questions about them, and the experiment that docs/howto.md has users write."""
    camera, rows = Camera(clips), {"sft": [], "rl": [], "test": []}
    for number in range(30):
        split, motion = ("sft", "rl", "test")[number % 3], words.MOVING[number % len(words.MOVING)]
        shot = camera.film(f"Träume/clip {number}.mp4", motion, fps=(2.0, 3.0)[number % 2])
        question, shows = words.yes_no(motion if number % 2 else "static", shot)
        row = {"id": str(number), "video": f"Träume/clip {number}.mp4", "question": question, "options": ["Yes", "No"]}
        row |= {"answer": "A" if shows else "B", "task": "binary", "source": "mine", "split": split}
        rows[split].append(row | ({"chain": words.chain(shot, row["answer"])} if split == "sft" else {}))
    for split, of_split in rows.items():
        words.write_lines(clips / f"{split}.jsonl", of_split)
    files = ", ".join(f"{split}: {clips}/{split}.jsonl" for split in rows)
    (code / "recipes/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - camreasoner\n  - override /media: camerabench\nexperiment: mine\n"
        f"data:\n  media_root: {clips}\n  files: {{{files}}}\n"
    )


def rehearse(experiment: str, code: Path, runs: Path, *overrides: str) -> Path:
    command = [sys.executable, "-m", "launch.rehearse", f"experiment={experiment}", f"runs={runs}", *overrides]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, timeout=1800, env=os.environ)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return runs / "rehearsal" / experiment


@pytest.mark.parametrize("experiment", RL_TASKS)
def test_a_rehearsal_runs_every_stage_and_scores_every_set(experiment, tmp_path):
    code = ROOT
    if experiment == "mine":
        code = tmp_path / "clone"  # the experiment's recipe lies in the code
        ignored = shutil.ignore_patterns("runs", ".git", ".venv", "*_cache", "__pycache__")
        shutil.copytree(ROOT, code, ignore=ignored)
        own_experiment(code, tmp_path / "clips")
    run = RunFolder(rehearse(experiment, code, tmp_path / "runs"))

    stages = {path.stem for path in run.records()}
    assert stages >= {"data", "model", "rl", "merge", "evaluate"}
    assert ("sft" in stages) == (experiment != "videochat_r1") and ("sets" in stages) == (experiment != "mine")

    rollouts = [record for path in sorted(run.rollouts.glob("*.jsonl")) for record in lines(path)]
    assert {record["task"] for record in rollouts} <= RL_TASKS[experiment] | {"choice"}
    assert sum(record["format"] for record in rollouts) > 0

    summary = json.loads((run.report / "summary.json").read_text())
    sets = {path.parent.parent.name for path in run.eval.glob(f"*/*/{SCORES}")}
    models = {"base", "rl"} | ({"sft"} if "sft" in stages else set())
    assert set(summary["sets"]) == sets and len(sets) == {"camreasoner": 4, "mine": 1}.get(experiment, len(sets))
    page = (run.report / "index.html").read_text()
    for name, of_set in summary["sets"].items():
        assert set(of_set) == models and name in page
        assert all(scores["n"] > 0 for scores in of_set.values())
    tables = {path.stem for path in (run.report / "tables").glob("*.md")}
    of_paper = [name for name, spec in papers().items() if spec["experiment"] == experiment]
    assert "results" in tables and set(of_paper) <= tables and bool(of_paper) == (experiment != "mine")


def test_captions_are_trained_on_and_scored_by_the_events_that_a_judge_finds(tmp_path):
    """VideoChat-R1's Table 5, of whose sets DREAM-1K alone asks for captions."""
    row = ["+ablation=videochat_r1_captions", "name=captions"]
    sets = compose_complete(overrides_of(["experiment=videochat_r1"])).other_sets
    others = [f"eval.sets.{name}=null" for name in sets if name != "dream1k"]
    rehearse("videochat_r1", ROOT, tmp_path, *row, *others)
    run = RunFolder(tmp_path / "rehearsal" / "captions")
    rollouts = [record for path in sorted(run.rollouts.glob("*.jsonl")) for record in lines(path)]
    assert {record["task"] for record in rollouts} == {"caption"}
    assert {record["accuracy"] for record in rollouts} > {1.0} and any(record["advantage"] for record in rollouts)
    scores = json.loads(run.scores("dream1k", "rl").read_text())
    assert scores["n"] > 0 and scores["format_rate"] > 0

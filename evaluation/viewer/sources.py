"""The files of a run that the viewer reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.controls import CONTROLS, TWINS
from data_tools.run_folder import RunFolder
from evaluation.grading import Schema, run_schema
from evaluation.runs import NAMES, need, read_json, recipe_of, root_of

ROLLOUTS = "rollouts"  # the view of RL; that of an evaluation set is SET_PREFIX and its name
VAL = "val split"  # its answers while RL trains: the model after each step that asked is one of several models
SET_PREFIX = "set "


@dataclass(frozen=True)
class Source:
    """A file of answers, or of the questions that they answer.

    Attributes:
        view: which page of the viewer shows it.
        kind: of its lines.
        step: of the training, for rollouts; else 0.
        model, rank: of predictions, and its place among the models in the order of training.
        control: of predictions and questions; empty: asked as they are.
        schema: of the predictions' responses.
    """

    path: Path
    view: str
    kind: Literal["rollouts", "questions", "predictions"]
    step: int = 0
    model: str = ""
    rank: int = 0
    control: str = ""
    schema: Schema = "ota"


def sources(run: RunFolder) -> Iterator[Source]:
    """Those that are there now; the questions of a set come before their answers.

    Raises:
        RunError: a file of the evaluation that cannot be read.
    """
    for path in run.rollout_files():
        yield Source(path, ROLLOUTS, "rollouts", step=int(path.stem))
    yield from _of_val(run)
    for facts in sorted(run.eval.glob("*/set.json")):
        yield from _of_set(run, facts.parent.name)


def _of_val(run: RunFolder) -> Iterator[Source]:
    files = run.held_out_files()
    if files:
        yield Source(run.samples("val"), VAL, "questions")
    schema = run_schema(recipe_of(run).get("reward") or {}) if files else "ota"
    for path in files:
        step = int(path.stem)
        yield Source(path, VAL, "predictions", 0, f"step {step}", step, schema=schema)


def _of_set(run: RunFolder, name: str) -> Iterator[Source]:
    facts, view = read_json(run.set_facts(name), "evaluate"), SET_PREFIX + name
    schema, order = run_schema(facts["reward"]), list(NAMES)
    models = sorted(facts["models"], key=lambda key: order.index(key) if key in order else len(order))
    for control in ("", *CONTROLS, *TWINS.values()):
        questions = run.controls(name) / f"{control}.jsonl" if control else need(run.asked(name), "evaluate")
        if not questions.is_file():
            continue
        yield Source(questions, view, "questions", control=control)
        for rank, model in enumerate(models):
            path = run.predictions(name, model, control or None)
            if path.is_file():
                yield Source(path, view, "predictions", 0, model, rank, control, schema)


def media_root(run: RunFolder, view: str) -> Path:
    """What the clips of a view's samples are relative to."""
    if view in (ROLLOUTS, VAL):
        return run.data
    return root_of(run, view.removeprefix(SET_PREFIX))

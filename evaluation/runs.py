"""What an evaluation needs of a run folder: its questions, each model's predictions and scores, and their schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from data_tools.controls import TWINS, Turn
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples
from evaluation.grading import Graded, Reader, Schema, grade_all, paired, run_schema
from evaluation.predictions import Prediction, read_predictions
from rewards.errors import UserError

NAMES = {"base": "Base", "sft": "SFT", "rl": "SFT + RL"}  # in the order of training


class RunError(UserError):
    """A run folder that cannot be read; the message names the file and the stage to run."""


@dataclass(frozen=True)
class Model:
    """One evaluated model of a run, or predictions from elsewhere.

    Attributes:
        name: as tables show it.
        read: a benchmark's official reader, for predictions from elsewhere.
        key: its name in the run's `eval.models`; empty for predictions from elsewhere.
        stage: base, sft or rl where the run made it; empty for any other.
        twins: graded responses to questions about turned clips, where they were asked; see `data_tools.controls`.
        scores: its scores.json, where it was read; see `evaluation.run_scores.score_run`.
    """

    name: str
    samples: Sequence[Sample] = ()
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    schema: Schema = "ota"
    read: Reader | None = None
    key: str = ""
    stage: str = ""
    twins: Sequence[Graded] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)

    def graded(self, ids: Sequence[str] | None = None) -> list[Graded]:
        """Graded responses to the samples with these ids, in this order; of all samples by default."""
        by_id = {sample.id: sample for sample in self.samples}
        chosen = [by_id[id] for id in (by_id if ids is None else ids)]
        return paired(grade_all(chosen, self.predictions, self.schema, self.read), self.twins)


def need(path: Path, stage: str) -> Path:
    """The path, which a finished stage has left.

    Raises:
        RunError: it is missing.
    """
    if not path.exists():
        raise RunError(f"{path} is missing: run the stage {stage!r} first")
    return path


def read_json(path: Path, stage: str) -> Any:
    """Content of a file that a stage wrote.

    Raises:
        RunError: it is missing or broken.
    """
    try:
        return json.loads(need(path, stage).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}:{error.lineno}: not JSON ({error.msg}): run the stage {stage!r} again") from error


def root_of(run: RunFolder, name: str) -> Path:
    """What the clips of a set's samples are relative to.

    Raises:
        RunError: a folder outside of the run, which may be anybody's.
    """
    root = str(read_json(run.set_facts(name), "evaluate")["root"])
    if PurePath(root).is_absolute() or ".." in PurePath(root).parts:
        raise RunError(f"{run.set_facts(name)}: root: {root!r} lies outside of the run")
    return run.root / root


def recipe_of(run: RunFolder) -> dict[str, Any]:
    """The run's resolved recipe, with the settings that its finished stages were really done with.

    Every stage rewrites recipe.yaml, so that a later one with other overrides would rename what was trained.

    Raises:
        RunError: not a run folder, or a file in it that cannot be read.
    """
    try:
        recipe = yaml.safe_load(need(run.recipe, "data").read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise RunError(f"{run.recipe}: not YAML ({error}): run the stage 'data' again") from error
    if not isinstance(recipe, dict):
        raise RunError(f"{run.recipe}: not a recipe: run the stage 'data' again")
    for path in run.records():
        settings = read_json(path, path.stem).get("settings", {})
        recipe |= {key: value for key, value in settings.items() if key in recipe and path.stem != "evaluate"}
    return recipe


def sets_of(run: RunFolder) -> list[str]:
    """Names of the sets that models were asked, in the order of the recipe."""
    found = [path.parent.name for path in sorted(run.eval.glob("*/set.json"))]
    order = list((recipe_of(run).get("eval") or {}).get("sets") or {})
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def models_of(run: RunFolder, keys: Sequence[str] = (), name: str | None = None) -> list[Model]:
    """The models that were asked a set, or those of `keys`; without their scores.

    Args:
        name: of the set; None for the run's only or first one.

    Raises:
        RunError: no such run, set or model.
    """
    sets, recipe = sets_of(run), recipe_of(run)
    if not sets:
        raise RunError(f"{run.eval} holds no evaluated set: run the stage 'evaluate' first")
    name = sets[0] if name is None else name
    if name not in sets:
        raise RunError(f"{run.root} has no evaluated set {name!r}: choose one of {', '.join(sets)}")
    facts = read_json(run.set_facts(name), "evaluate")
    samples = list(read_samples(need(run.asked(name), "evaluate")))
    ids, schema = {sample.id for sample in samples}, run_schema(facts["reward"])
    paths = {key: need(run.predictions(name, key), "evaluate") for key in keys or facts["models"]}
    made = {key: asked["is"] for key, asked in facts["models"].items() if asked["is"] in NAMES}
    turns = facts.get("twins", [])
    return [
        Model(
            _name(key, recipe),
            samples,
            read_predictions(path, ids),
            schema,
            key=key,
            stage=made.get(key, ""),
            twins=twins_of(run, name, key, turns, schema),
        )
        for key, path in paths.items()
    ]


def _name(key: str, recipe: Mapping[str, Any]) -> str:
    """Of a run's model, as tables show it; where RL started from the base model there was no SFT."""
    without_sft = key == "rl" and (recipe.get("rl") or {}).get("start_epoch") == 0
    return "RL" if without_sft else NAMES.get(key, key)


def twins_of(run: RunFolder, name: str, key: str, turns: Sequence[Turn], schema: Schema) -> list[Graded]:
    """A model's graded responses to the twins of a set's questions; empty where none has one."""
    found = []
    for control in (TWINS[turn] for turn in turns):
        if (questions := run.controls(name) / f"{control}.jsonl").exists():
            samples = list(read_samples(questions))
            path = need(run.predictions(name, key, control), "evaluate")
            found += grade_all(samples, read_predictions(path, {sample.id for sample in samples}), schema)
    return found

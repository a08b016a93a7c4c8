"""What an evaluation needs of a run folder: its questions, the predictions of a model, the schema of its responses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_tools.sample import Sample, read_samples
from evaluation.answers import Judgement, Prediction, Schema, judge_all, read_predictions, run_schema
from evaluation.cli import UsageError

NAMES = {"base": "Base", "sft": "SFT", "rl": "SFT + RL"}  # in the order of training


@dataclass(frozen=True)
class Model:
    """One evaluated model of a run, or predictions from elsewhere.

    Attributes:
        name: as tables show it.
        recipe: the run's, resolved; empty for predictions from elsewhere.
    """

    name: str
    samples: list[Sample]
    predictions: dict[str, Prediction]
    schema: Schema
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def judgements(self, ids: Sequence[str]) -> list[Judgement]:
        """Judgements of the samples with these ids, in this order."""
        by_id = {sample.id: sample for sample in self.samples}
        return judge_all([by_id[id] for id in ids], self.predictions, self.schema)


def recipe_of(run: Path) -> dict[str, Any]:
    """The run's resolved recipe, with the settings that its finished stages were really done with.

    recipe.yaml is written anew by every stage, so that a later one with other overrides would rename what was trained.

    Raises:
        UsageError: no run folder, or a file in it that cannot be read.
    """
    path = run / "recipe.yaml"
    if not path.is_file():
        raise UsageError(f"{run}: no run folder: recipe.yaml is missing")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for path in sorted((run / "stages").glob("*.json")):
            settings = json.loads(path.read_text(encoding="utf-8")).get("settings", {})
            recipe |= {key: value for key, value in settings.items() if key in recipe and path.stem != "evaluate"}
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return recipe


def models_of(spec: str) -> list[Model]:
    """`runs/demo/main` (all its models) or `runs/demo/main:rl`.

    Raises:
        UsageError: no such run or model.
    """
    folder, _, key = spec.partition(":")
    run = Path(folder)
    recipe = recipe_of(run)
    keys = [key] if key else [key for key in NAMES if (run / "eval" / key / "predictions.jsonl").is_file()]
    if not keys:
        raise UsageError(f"{run}: no model is evaluated: run the stage 'evaluate' first")
    path = run / "data" / "test.jsonl"
    if not path.is_file():
        raise UsageError(f"{path} is missing: run the stage 'data' first")
    samples = list(read_samples(path))[: (recipe.get("eval") or {}).get("limit")]
    models = []
    for key in keys:
        path = run / "eval" / key / "predictions.jsonl"
        if not path.is_file():
            raise UsageError(f"{path} is missing: run the stage 'evaluate' with eval.models=[{key}]")
        predictions = read_predictions(path, {sample.id for sample in samples})
        schema = run_schema(recipe.get("reward") or {})
        models.append(Model(f"{run.name} · {NAMES.get(key, key)}", samples, predictions, schema, recipe))
    return models

"""Read what the stages of a run left behind, for its report."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_tools.media.child import clip_path
from data_tools.quarantine import read_rejected
from data_tools.run_folder import OWN, SPLITS, RunFolder
from data_tools.sample import Sample, read_samples
from evaluation.benchmarks import benchmark_named
from evaluation.benchmarks.benchmark import Benchmark, Part, difference
from evaluation.benchmarks.samples import SAMPLES
from evaluation.comparison import Measured, measured
from evaluation.grading import OUTCOMES
from evaluation.held_out import read_held_out
from evaluation.measures.bootstrap import Estimate, estimate
from evaluation.rollouts.records import Rollout, read_rollouts
from evaluation.runs import NAMES, Model, RunError, models_of, need, read_json, recipe_of, root_of, sets_of


@dataclass(frozen=True)
class SetInputs:
    """An evaluation set, and what models answered.

    Attributes:
        root: what the samples' clips are relative to; `stage` makes them.
        benchmark: gives the official numbers, in each model's scores under `official`.
        judge: model that graded for the benchmark; None where rules did.
        without_video: questions that were not asked, since their video is missing or broken.
        trained_on: questions about videos that the run trains on.
        models: with their scores: those of the run in the order of training, then the others.
        measured: the models' graded responses and strict numbers.
        official: the same by the benchmark; None where it is `samples`, or more than rules grade it.
        gains: change of balanced accuracy from each stage's model to the next one's; None where it is undefined.
    """

    name: str
    root: Path
    benchmark: Benchmark
    judge: str | None
    without_video: int
    trained_on: int
    models: Sequence[Model]
    measured: Measured
    official: Measured | None
    gains: Sequence[Estimate | None]

    @property
    def stage(self) -> str:
        return "data" if self.name == OWN else "sets"

    @property
    def trained(self) -> list[Model]:
        """The models that the run made, in the order of training."""
        return [model for model in self.models if model.stage]

    @property
    def seed(self) -> int:
        return self.measured.resamples.seed

    def paths(self, sample: Sample) -> list[Path]:
        """Of its clip, or of its images.

        Raises:
            ClipError: outside of the root, but for the store of clips that runs share.
        """
        return [clip_path(self.root, name, [self.root / "clips"]) for name in sample.media]


@dataclass(frozen=True)
class Inputs:
    """Everything that a report shows.

    Attributes:
        sets: in the order of the recipe; one or more.
        sft_log, rl_steps: metrics per step; empty where nothing was trained.
        held_out: records of the val split, asked while RL trained.
        rollouts: records of RL's rollouts.
        stages: records of the finished stages, in the order of their start.
    """

    run: RunFolder
    recipe: Mapping[str, Any]
    sets: Sequence[SetInputs]
    sft_log: Sequence[Mapping[str, float]]
    rl_steps: Sequence[Mapping[str, float]]
    held_out: Sequence[Mapping[str, Any]]
    rollouts: Sequence[Rollout]
    stages: Sequence[Mapping[str, Any]]


def load(run: RunFolder) -> Inputs:
    """Read a run: its evaluated sets, and of its training what there is.

    Raises:
        RunError: a missing or broken input, naming the stage that writes it.
        SampleError, PredictionError: a bad record, naming file and line.
    """
    recipe = recipe_of(run)
    sets = [_set(run, name) for name in sets_of(run) or [OWN]]
    made = {model.stage for each in sets for model in each.models}
    return Inputs(
        run,
        recipe,
        sets,
        _sft_log(run) if "sft" in made or run.sft_state.exists() else [],
        _rl_steps(run) if "rl" in made or run.rl_metrics.exists() else [],
        read_held_out(run.held_out),
        read_rollouts(run.rollouts),
        _stages(run),
    )


def _set(run: RunFolder, name: str) -> SetInputs:
    order = [*NAMES, ""]
    found = sorted(models_of(run, name=name), key=lambda model: order.index(model.stage))
    models = [replace(model, scores=_scores(run, name, model.key)) for model in found]
    facts = read_json(run.set_facts(name), "evaluate")
    benchmark, seed = benchmark_named(facts["benchmark"]), models[0].scores["bootstrap"]["seed"]
    strict = measured(SAMPLES, models, seed)
    for model, graded in zip(models, strict.graded):
        outcomes = Counter(j.outcome for j in graded)
        if any(model.scores[outcome] != outcomes[outcome] for outcome in OUTCOMES):
            path = run.scores(name, model.key)
            raise RunError(f"{path} does not match predictions.jsonl beside it: run the stage 'evaluate' again")
    by_rule = benchmark is not SAMPLES and not benchmark.needs_judge and facts["judge"] is None
    return SetInputs(
        name,
        root_of(run, name),
        benchmark,
        facts["judge"],
        facts["without_video"],
        facts["trained_on"],
        models,
        strict,
        measured(benchmark, models, seed) if by_rule else None,
        gains([parts for model, parts in zip(models, strict.parts) if model.stage]),
    )


def gains(parts: Sequence[Mapping[str, Part]]) -> list[Estimate | None]:
    """Change of balanced accuracy from each model to the next one, paired by clip."""
    binary = [of_model.get("binary") for of_model in parts]
    changes = [difference(a, b).values["balanced accuracy"] if a and b else None for a, b in pairwise(binary)]
    return [None if change is None else estimate(change) for change in changes]


def _scores(run: RunFolder, name: str, key: str) -> dict[str, Any]:
    scores: dict[str, Any] = read_json(run.scores(name, key), "evaluate")
    if not {"parts", "official_baselines", "pair_accuracy"} <= scores.keys():
        raise RunError(
            f"{run.scores(name, key)} was written by an older version: run the stage 'evaluate' again with force=true "
            f"(the predictions are kept)"
        )
    return scores


def _sft_log(run: RunFolder) -> list[dict[str, float]]:
    """What the Trainer logged per step; its last record (run time of the whole training) has no loss."""
    return [record for record in read_json(run.sft_state, "sft")["log_history"] if "loss" in record]


def _rl_steps(run: RunFolder) -> list[dict[str, float]]:
    """Metrics per training step. Step 0 is verl's validation before training; a resumed step is logged twice."""
    steps: dict[int, dict[str, float]] = defaultdict(dict)
    with need(run.rl_metrics, "rl").open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise RunError(
                    f"{run.rl_metrics}:{number}: not JSON ({error.msg}): run the stage 'rl' again"
                ) from error
            steps[record["step"]] |= record["data"]
    return [{"step": step, **steps[step]} for step in sorted(steps) if step > 0]


def _stages(run: RunFolder) -> list[dict[str, Any]]:
    if not run.records():
        raise RunError(f"{run.record('data')} is missing: run the stage 'data' first")
    return sorted((read_json(path, path.stem) for path in run.records()), key=lambda stage: stage["started"])


def splits(inputs: Inputs) -> list[dict[str, Any]]:
    """Questions by task and clips of each split that the run has; none without data of its own."""
    run, data = inputs.run, inputs.recipe.get("data") or {}
    given = data.get("files") or {"sft": True, "rl": True, "test": True} | (data.get("rendered") or {})
    if not run.record("data").exists():
        return []
    rows = []
    for split in [split for split in SPLITS if given.get(split)]:
        samples = list(read_samples(need(run.samples(split), "data")))
        tasks = Counter(sample.task for sample in samples)
        rows.append(
            {
                "split": split,
                "clips": len({name for s in samples for name in s.media}),
                "tasks": list(tasks),
                "count": tasks,
            }
        )
    return rows


def left_out(run: RunFolder) -> list[dict[str, Any]]:
    """What the stages left out, by list and field: how many records, and the reason of the first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in run.quarantines():
        where = path.relative_to(run.root).as_posix()
        for rejected in read_rejected(path):
            first = {
                "list": where,
                "field": rejected.field,
                "records": 0,
                "reason": f"{rejected.record}: {rejected.reason}",
            }
            rows.setdefault((where, rejected.field), first)["records"] += 1
    return list(rows.values())

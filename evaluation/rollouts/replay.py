"""Replay: score recorded rollouts with another reward or advantage.

    python -m evaluation.rollouts.replay runs/demo/main/rl/rollouts/*.jsonl reward.format_weight=0.3 \\
        advantage=ema_grpo advantage.decay=0.9 out=replay

Reward and advantage are those of the rollouts' own run (its recipe.yaml), except for what is given. Another name
(`reward=NAME`) starts from the defaults of that reward or estimator. `overlong='{limit: 64, buffer: 13}'` is DAPO's
penalty for long responses, `relation_weight` and `temporal.bonus` those of rl.twins, all by default the run's own.
`judge=recorded` (the default) takes the verdicts in the records; `judge=rules` or `judge=endpoint` asks again. First
order and off-policy: the responses remain those that were sampled.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from data_tools.cli import Arguments, run_command
from data_tools.files import whole_file, write_json
from data_tools.run_folder import RunFolder
from evaluation.rollouts.counterfactual import NOISE, PARTS, lambda_counterfactual
from evaluation.rollouts.records import RecordError, Rollout, parse_rollouts
from evaluation.rollouts.show import plot, show_changes, show_counts, show_estimators, show_refused, show_sweep
from evaluation.rollouts.twins import contrast, relate
from rewards.errors import UserError
from rewards.judges.build import build as build_judge
from rewards.judges.protocol import UNJUDGED, Judge, JudgeError, Unjudged
from rewards.overlong import overlong as shaped
from rewards.scorer import Scorer
from rewards.tasks import gold_answer

if TYPE_CHECKING:
    from rewards.advantages import Advantages, Estimator

JUDGES = ("recorded", "rules", "endpoint")
LAMBDAS = (0.0, 0.1, 0.3, 0.5)


class ReplayError(UserError):
    """A replay that is not possible; the message says what to change."""


@dataclass
class Replayed:
    """Recorded rollouts with their new reward components and advantages, by step.

    Attributes:
        records: as recorded.
        components: the new reward's, one per record.
        advantages: new ones; under `pa_grpo` those of the reasoning tokens.
        perception_advantages: under `pa_grpo`, else empty.
        refused: (rollout or line, reason) of what could not be scored.
    """

    records: list[Rollout] = field(default_factory=list)
    components: list[dict[str, float]] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    perception_advantages: list[float] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def replay(
    paths: Sequence[Path],
    reward: Mapping[str, Any],
    advantage: Mapping[str, Any],
    judge: Judge | None = None,
    overlong: Mapping[str, Any] | None = None,
    relation_weight: float = 0.0,
    temporal: Mapping[str, float] | None = None,
) -> Replayed:
    """Score recorded rollouts again, and estimate advantages step by step as training did.

    Args:
        paths: rollout files, in any order.
        reward: {"name": ..., **settings}.
        advantage: {"name": ..., **settings}; it starts without state.
        judge: None takes the recorded verdicts.
        overlong: what `rewards.overlong` takes besides the tokens of a response; None: length costs nothing.
        relation_weight: of the relation to the twin's answers (`rewards.relation`).
        temporal: `bonus` and `ratio` of T-GRPO, compared with the recorded accuracy on shuffled frames.

    Raises:
        RewardError, AdvantageError: unknown names or settings.
        ReplayError: nothing can be scored, or the estimator needs another reward. Single records that cannot be scored
            are listed.
    """
    from rewards.advantages import build

    estimator, done, scorer = build(advantage), Replayed(), Scorer(reward, judge)
    asyncio.run(_rescore(done, paths, scorer, overlong))
    if relation_weight:
        relate(done.records, done.components, scorer, relation_weight)
    if temporal:
        contrast(done.records, done.components, **temporal)
    if not done.records:
        reasons = "; ".join(reason for reason, _ in Counter(reason for _, reason in done.refused).most_common(3))
        raise ReplayError(f"no rollout in {', '.join(map(str, paths))} can be scored: {reasons or 'they are empty'}")
    if missing := estimator.reads - done.components[0].keys():
        needs = "rewards per segment: reward=videop2r" if "perception" in missing else ", ".join(sorted(missing))
        raise ReplayError(f"advantage={advantage['name']} needs {needs}")
    for step in _estimated(done, estimator):
        done.advantages += step.response_B.tolist()
        if step.perception_B is not None:
            done.perception_advantages += step.perception_B.tolist()
    return done


async def _rescore(done: Replayed, paths: Sequence[Path], scorer: Scorer, overlong: Mapping[str, Any] | None) -> None:
    from rich.progress import track

    async def score(record: Rollout) -> dict[str, float]:
        tokens = {segment: record.components.get(f"{segment}_tokens") for segment in ("perception", "reasoning")}
        lengths = {segment: int(count) for segment, count in tokens.items() if count is not None}
        found = await scorer.score(record.response, record.sample, lengths or None, scorer.judge or _Recorded(record))
        if overlong:
            found["overlong"] = shaped(record.response_tokens, **overlong)
            found["score"] += found["overlong"]
        return found

    scored: list[tuple[Rollout, dict[str, float]]] = []
    incomplete: set[str] = set()  # groups
    # Stable: the order within a step is that of the files.
    records = sorted(_records(paths, done.refused), key=lambda record: record.step)
    for start in track(range(0, len(records), 256), "scoring", transient=True, disable=len(records) < 4096):
        batch = records[start : start + 256]
        results = await asyncio.gather(*(score(record) for record in batch), return_exceptions=True)
        for record, result in zip(batch, results):
            if isinstance(result, (ValueError, KeyError)):
                reason = f"no {result}" if isinstance(result, KeyError) else str(result)
                done.refused.append((record.rollout, reason))
                incomplete.add(record.group)
            elif isinstance(result, BaseException):
                raise result
            else:
                scored.append((record, result))
    for record, components in scored:
        if record.group in incomplete:  # its advantage depends on the whole group
            done.refused.append((record.rollout, "another response to the same prompt could not be scored"))
        else:
            done.records.append(record)
            done.components.append(components)


def _records(paths: Sequence[Path], refused: list[tuple[str, str]]) -> Iterator[Rollout]:
    """The records of all files; bad ones go to `refused`."""
    for path in paths:
        for record in parse_rollouts(path):
            if isinstance(record, RecordError):
                where, _, reason = str(record).partition(": ")
                refused.append((where, reason))
            else:
                yield record


class _Recorded:
    """A judge that repeats the verdicts of one record."""

    def __init__(self, record: Rollout) -> None:
        self.components = record.components

    def _verdict(self, name: str) -> float:
        if name not in self.components:
            raise JudgeError(f"the record has no verdict ({name}); judge=rules or judge=endpoint asks for one")
        return self.components[name]

    async def answer_from_text(self, text: str, sample: Mapping[str, Any]) -> str | None | Unjudged:
        if self.components.get("unjudged"):
            return UNJUDGED
        return gold_answer(sample) if self._verdict("perception_accuracy") else None

    async def supports(self, text: str, sample: Mapping[str, Any]) -> bool | Unjudged:
        answer = await self.answer_from_text(text, sample)
        return answer if isinstance(answer, Unjudged) else answer is not None

    async def entailed(self, statements: Sequence[str], text: str) -> list[bool] | Unjudged:
        entailed = round(self._verdict("accuracy") * len(statements))
        return [index < entailed for index in range(len(statements))]

    async def consistent(self, think: str, answer: str, sample: Mapping[str, Any]) -> bool | Unjudged:
        return not self._verdict("mismatch")

    def metrics(self) -> dict[str, float]:
        return {}


def _estimated(done: Replayed, estimator: "Estimator") -> "Iterator[Advantages]":
    """Advantages of the replayed rollouts, step by step."""
    import torch

    from rewards.advantages import Batch

    rows = zip(done.records, done.components)
    for _, step in groupby(rows, key=lambda row: row[0].step):
        records, components = zip(*step)
        groups, tasks = [record.group for record in records], [record.task for record in records]
        tokens_B = torch.tensor([record.response_tokens for record in records])
        yield estimator.advantages(Batch.of(components, groups, tasks, tokens_B=tokens_B))


# ---------------------------------------------------------------- comparison


def summary(done: Replayed) -> dict[str, float]:
    """Counts of what the new reward and advantage change. Pairs are pairs of responses to the same prompt."""
    old = [record.score for record in done.records]
    new = [component["score"] for component in done.components]
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(done.records):
        groups.setdefault(record.group, []).append(row)
    pairs = [pair for rows in groups.values() for pair in combinations(rows, 2)]
    orders = [(_sign(old[i] - old[j]), _sign(new[i] - new[j])) for i, j in pairs]
    counts: dict[str, float] = {
        "rollouts": len(done.records),
        "refused": len(done.refused),
        "groups": len(groups),
        "scores_changed": sum(abs(a - b) > NOISE for a, b in zip(old, new)),
        "pairs": len(pairs),
        "rank_flips": sum(before * after < 0 for before, after in orders),
        "ties_broken": sum(before == 0 != after for before, after in orders),
        "ties_made": sum(after == 0 != before for before, after in orders),
        "score_before": sum(old) / len(old),
        "score_after": sum(new) / len(new),
    }
    for key, values in (("advantage", done.advantages), ("advantage_perception", done.perception_advantages)):
        before_and_after = [(getattr(record, key), value) for record, value in zip(done.records, values)]
        signs = [(_sign(before), _sign(after)) for before, after in before_and_after if before is not None]
        if signs:
            counts |= {
                f"{key}_sign_flips": sum(before * after < 0 for before, after in signs),
                f"{key}_became_zero": sum(before != 0 == after for before, after in signs),
                f"{key}_became_nonzero": sum(before == 0 != after for before, after in signs),
            }
    return counts


def estimators(done: Replayed, advantage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each estimator would make of the replayed rewards, with its defaults; `advantage` with its own settings.

    GDPO weighs accuracy and format alike; an estimator that needs other components than there are is left out.

    Returns:
        One row each: `advantage`, `no_signal` (share of responses with advantage 0), `mean_size` of the others,
        and against the recorded advantages `sign_flips` (share of responses) and `correlation`.
    """
    from rewards.advantages import ESTIMATORS, build

    own = {"gdpo": {"weights": {"accuracy": 1.0, "format": 1.0}}, advantage["name"]: dict(advantage)}
    rows = []
    for name in ESTIMATORS:
        estimator = build({"name": name} | own.get(name, {}))
        if not estimator.reads <= done.components[0].keys():
            continue
        new_B = np.concatenate([step.response_B.double().numpy() for step in _estimated(done, estimator)])
        old_B = np.array([record.advantage for record in done.records])
        moved = np.abs(new_B) > NOISE
        varied = min(np.ptp(new_B), np.ptp(old_B)) > NOISE
        rows.append(
            {
                "advantage": name,
                "no_signal": float(1 - moved.mean()),
                "mean_size": float(np.abs(new_B[moved]).mean()) if moved.any() else 0.0,
                "sign_flips": float((new_B * old_B < -(NOISE**2)).mean()),
                "correlation": float(np.corrcoef(new_B, old_B)[0, 1]) if varied else None,
            }
        )
    return rows


def _sign(value: float) -> int:
    return 0 if abs(value) <= NOISE else 1 if value > 0 else -1


# ---------------------------------------------------------------- command

Share = Annotated[float, Field(ge=0, le=1)]


class ReplayArguments(Arguments):
    files: list[Path] = Field([], description="rollout files, e.g. runs/demo/main/rl/rollouts/*.jsonl")
    reward: dict[str, Any] = Field({}, description="another reward, and reward.KEY=VALUE: its settings")
    advantage: dict[str, Any] = Field({}, description="another estimator, and advantage.KEY=VALUE: its settings")
    overlong: dict[str, float] = Field({}, description="limit, buffer and penalty of DAPO's penalty for long responses")
    relation_weight: float | None = Field(None, ge=0, description="of the relation to the answers of a question's twin")
    temporal: dict[str, float] = Field({}, description="bonus and ratio of T-GRPO's reward, over the run's own")
    judge: dict[str, Any] = Field({"name": "recorded"}, description="recorded, rules or endpoint, and judge.KEY=VALUE")
    lambdas: list[Share] | None = Field(
        None, min_length=1, description="of the lambda counterfactual, 0, 0.1, 0.3 and 0.5 if not given"
    )
    out: Path = Field(Path("replay"), description="folder to write to")


def chosen(arguments: ReplayArguments) -> dict[str, Any]:
    """Reward, advantage and judge, each `{"name": ..., **settings}`, overlong and relation: as given, over the run's.

    Raises:
        ReplayError: no files, missing ones, no name or an unknown judge.
    """
    if not arguments.files:
        raise ReplayError("name one or more rollout files, e.g. runs/demo/main/rl/rollouts/*.jsonl")
    if missing := next((path for path in arguments.files if not path.is_file()), None):
        raise ReplayError(f"{missing}: no such rollouts; a run has them after stage rl (make demo: runs/demo/main)")
    recipe = _recipe(arguments.files)
    parts = {}
    for part in ("reward", "advantage", "judge"):
        given, own = getattr(arguments, part), recipe.get(part) or {}
        name = given.get("name", own.get("name"))
        if name is None:
            raise ReplayError(f"{arguments.files[0]} is not in a run folder with a recipe.yaml: give {part}=NAME")
        parts[part] = (own if own.get("name") == name else {}) | {"name": name} | given
    if parts["judge"]["name"] not in JUDGES:
        raise ReplayError(f"judge={parts['judge']['name']}: choose from {', '.join(JUDGES)}")
    parts["overlong"] = _overlong(recipe) | arguments.overlong
    twins = (recipe.get("rl") or {}).get("twins") or {}
    own = twins.get("relation_weight", 0.0)
    parts["relation_weight"] = own if arguments.relation_weight is None else arguments.relation_weight
    paid = {"bonus": twins.get("temporal_bonus", 0.0), "ratio": twins.get("temporal_ratio", 0.8)} | arguments.temporal
    parts["temporal"] = paid if paid["bonus"] else {}
    return parts


def _sweep(done: Replayed, reward: Mapping[str, Any], lambdas: Sequence[float] | None) -> list[dict[str, float]]:
    """The lambda counterfactual, of a reward that weighs format against accuracy by lambda.

    Raises:
        ReplayError: lambdas are given for another reward.
    """
    weighs = "format_weight" in Scorer(reward).names and all(PARTS <= row.keys() for row in done.components)
    if lambdas and not weighs:
        raise ReplayError(f"lambdas: reward={reward['name']} has no format_weight, which lambda is: leave it out")
    groups = [record.group for record in done.records]
    return lambda_counterfactual(groups, done.components, lambdas or LAMBDAS) if weighs and groups else []


def _overlong(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What `rewards.overlong` takes besides the tokens of a response, by a run's recipe."""
    chosen = (recipe.get("loss") or {}).get("overlong")
    if not chosen:
        return {}
    limit = recipe["rl"]["max_response_length"]
    return {"limit": limit, "buffer": max(round(chosen["share"] * limit), 1), "penalty": chosen["penalty"]}


def _recipe(paths: Sequence[Path]) -> dict[str, Any]:
    """The recipe of the run that all rollout files belong to; empty where there is none."""
    folders = {path.resolve().parents[min(2, len(path.resolve().parents) - 1)] for path in paths}
    runs = [RunFolder(folder) for folder in sorted(folders)]
    recipes = [yaml.safe_load(run.recipe.read_text(encoding="utf-8")) for run in runs if run.recipe.exists()]
    for part in ("reward", "advantage"):
        if any(recipe.get(part) != recipes[0].get(part) for recipe in recipes):
            raise ReplayError(f"the files belong to runs with different recipes ({part}): replay them one by one")
    return recipes[0] if recipes else {}


def main(arguments: ReplayArguments) -> None:
    from data_tools.console import Console

    parts = chosen(arguments)
    judge = None if parts["judge"]["name"] == "recorded" else build_judge(parts["judge"])
    by = parts["reward"], parts["advantage"]
    done = replay(arguments.files, *by, judge, parts["overlong"], parts["relation_weight"], parts["temporal"])
    counts, sweep = summary(done), _sweep(done, parts["reward"], arguments.lambdas)
    others = estimators(done, parts["advantage"])

    with whole_file(arguments.out / "replay.jsonl") as out:
        for row, (record, components) in enumerate(zip(done.records, done.components)):
            line = {"rollout": record.rollout, "id": record.id, "before": record.score, "components": components}
            line["advantage"] = done.advantages[row]
            if done.perception_advantages:
                line["advantage_perception"] = done.perception_advantages[row]
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    settings = parts | {"lambdas": [row["lambda"] for row in sweep]}
    result = {"settings": settings, "counts": counts, "estimators": others, "lambda": sweep, "refused": done.refused}
    write_json(arguments.out / "summary.json", result)
    plot(done.records, done.components, done.advantages, sweep, arguments.out)
    console = Console(highlight=False)
    show_counts(counts, console)
    show_changes(done.records, done.components, done.advantages, console)
    show_estimators(others, console)
    if sweep:
        show_sweep(sweep, console)
    show_refused(done.refused, console)
    files = "summary.json, replay.jsonl, replay.png" + (", lambda.png" if sweep else "")
    console.print(f"written to {arguments.out}: {files}")


if __name__ == "__main__":
    run_command(main, ReplayArguments, __doc__ or "")

"""What another reward or advantage would have made of recorded rollouts:

    python -m rewards.replay runs/demo/main/rl/rollouts/*.jsonl reward=camreasoner reward.format_weight=0.3 \\
        advantage=ema_grpo advantage.decay=0.9 out=replay

Settings default to recipes/reward/NAME.yaml and recipes/advantage/NAME.yaml. `judge=recorded` (the default) takes the
verdicts that stand in the records; `judge=rules` or `judge=endpoint` asks again. `lambdas=[0,0.1,0.5]` chooses what the
lambda counterfactual compares. First order and off-policy: the rollouts stay those that were sampled.
"""

import asyncio
import inspect
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rewards.counterfactual import NOISE, lambda_counterfactual
from rewards.judge import UNJUDGED, Judge, JudgeError, build
from rewards.registry import REWARDS
from rewards.tasks import gold_answer

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
FIELDS = ("rollout", "group", "task", "response", "sample", "score", "accuracy", "format")
SHOWN = 10  # of the most changed rollouts, and of the reasons why some cannot be scored


class ReplayError(ValueError):
    """A replay that cannot be done; the message says what to change."""


@dataclass
class Replayed:
    """Recorded rollouts beside their new reward components and advantages, in the order of the files.

    Attributes:
        records: as recorded.
        components: the new reward's, one per record.
        advantages: new ones; under `pa_grpo` those of the reasoning tokens.
        perception_advantages: under `pa_grpo`, else empty.
        refused: (rollout or place, reason) of what could not be scored.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    components: list[dict[str, float]] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    perception_advantages: list[float] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def replay(
    paths: Sequence[Path], reward: Mapping[str, Any], advantage: Mapping[str, Any], judge: Judge | None = None
) -> Replayed:
    """Score recorded rollouts again, and estimate advantages step by step as training did.

    Args:
        paths: rollout files, JSON Lines, in any order.
        reward: {"name": ..., **settings}.
        advantage: {"name": ..., **settings}; its state starts anew.
        judge: None takes the recorded verdicts.

    Raises:
        ReplayError: unknown names or settings, or nothing that can be scored. Single records that cannot be are listed.
    """
    from rewards.advantages import ESTIMATORS

    reward_settings, advantage_settings = dict(reward), dict(advantage)
    reward_name, advantage_name = reward_settings.pop("name"), advantage_settings.pop("name")
    takes = inspect.signature(_known(REWARDS, reward_name, "reward")).parameters
    if unknown := reward_settings.keys() - takes.keys():
        raise ReplayError(f"reward {reward_name} has no setting {', '.join(sorted(unknown))}")
    try:
        estimator = _known(ESTIMATORS, advantage_name, "advantage")(**advantage_settings)
    except (TypeError, ValueError) as error:
        raise ReplayError(f"advantage {advantage_name}: {error}") from error

    done = Replayed()
    asyncio.run(_rescore(done, paths, reward_name, reward_settings, judge))
    if not done.records:
        reasons = "; ".join(reason for reason, _ in Counter(reason for _, reason in done.refused).most_common(3))
        raise ReplayError(f"no rollout in {', '.join(map(str, paths))} can be scored: {reasons or 'they are empty'}")
    _estimate(done, estimator, advantage_name)
    return done


def _known(registry: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in registry:
        raise ReplayError(f"{what}={name}: choose of {', '.join(registry)}")
    return registry[name]


async def _rescore(
    done: Replayed, paths: Sequence[Path], name: str, settings: Mapping[str, Any], judge: Judge | None
) -> None:
    from rich.progress import track

    takes = inspect.signature(REWARDS[name]).parameters

    async def score(record: Mapping[str, Any]) -> dict[str, float]:
        extra: dict[str, Any] = {}
        if "judge" in takes:
            extra["judge"] = judge or _Recorded(record)
        if "lengths" in takes and "perception_tokens" in record:
            extra["lengths"] = {process: int(record[f"{process}_tokens"]) for process in ("perception", "reasoning")}
        components = REWARDS[name](record["response"], record["sample"], **extra, **settings)
        return await components if inspect.isawaitable(components) else components

    read = list(_read(paths, done.refused))
    scored: list[tuple[dict[str, Any], dict[str, float]]] = []
    torn: set[str] = set()
    read.sort(key=lambda record: record.get("step", 0))  # stable: the order within a step is that of the files
    for start in track(range(0, len(read), 256), "scoring", transient=True, disable=len(read) < 4096):
        batch = read[start : start + 256]
        results = await asyncio.gather(*(score(record) for record in batch), return_exceptions=True)
        for record, result in zip(batch, results):
            if isinstance(result, (ValueError, KeyError, JudgeError)):
                reason = f"no {result}" if isinstance(result, KeyError) else str(result)
                done.refused.append((str(record["rollout"]), reason))
                torn.add(str(record["group"]))
            elif isinstance(result, BaseException):
                raise result
            else:
                scored.append((record, result))
    for record, components in scored:
        if str(record["group"]) in torn:  # its advantage hangs on all of the group
            done.refused.append((str(record["rollout"]), "another response to the same prompt could not be scored"))
        else:
            done.records.append(record)
            done.components.append(components)


def _read(paths: Sequence[Path], refused: list[tuple[str, str]]):
    """The records of all files; what is none goes to `refused`."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    refused.append((f"{path}:{number}", f"no JSON: {error}"))
                    continue
                missing = [name for name in FIELDS if not isinstance(record, dict) or name not in record]
                if missing:
                    refused.append((f"{path}:{number}", f"the record has no {', '.join(missing)}"))
                else:
                    yield record


class _Recorded:
    """A judge that repeats the verdicts of one record."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record

    def _verdict(self, name: str) -> float:
        if name not in self.record:
            raise JudgeError(f"the record holds no verdict ({name}); judge=rules or judge=endpoint asks for one")
        return self.record[name]

    async def answer_from_text(self, text: str, sample: Mapping[str, Any]) -> Any:
        if self.record.get("unjudged"):
            return UNJUDGED
        return gold_answer(sample) if self._verdict("perception_accuracy") else None

    async def entailed(self, statements: Sequence[str], text: str) -> list[bool]:
        entailed = round(self._verdict("accuracy") * len(statements))
        return [place < entailed for place in range(len(statements))]


def _estimate(done: Replayed, estimator: Any, name: str) -> None:
    import torch

    rows = zip(done.records, done.components)
    for _, step in groupby(rows, key=lambda row: row[0].get("step", 0)):
        records, components = zip(*step)

        def column(name: str) -> torch.Tensor:
            return torch.tensor([component[name] for component in components])  # noqa: B023 - used within its step

        groups = [str(record["group"]) for record in records]
        judged = column("unjudged") == 0 if "unjudged" in components[0] else None
        if hasattr(estimator, "process_advantages"):
            if "perception" not in components[0]:
                raise ReplayError(f"advantage={name} needs rewards by process: reward=videop2r")
            perception, reasoning = estimator.process_advantages(
                column("perception"), column("reasoning"), groups, judged
            )
            done.perception_advantages += perception.tolist()
            done.advantages += reasoning.tolist()
        else:
            tasks = [record["task"] for record in records]
            done.advantages += estimator.advantages(column("score"), groups, tasks, judged).tolist()


# ---------------------------------------------------------------- comparison


def summary(done: Replayed) -> dict[str, float]:
    """Counts of what the new reward and advantage change. Pairs are pairs of responses to the same prompt."""
    old = [float(record["score"]) for record in done.records]
    new = [component["score"] for component in done.components]
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(done.records):
        groups.setdefault(str(record["group"]), []).append(row)
    pairs = [pair for rows in groups.values() for pair in combinations(rows, 2)]
    orders = [(_sign(old[i] - old[j]), _sign(new[i] - new[j])) for i, j in pairs]
    counts = {
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
        signs = [(_sign(r[key]), _sign(v)) for r, v in zip(done.records, values) if r.get(key) is not None]
        if signs:
            counts |= {
                f"{key}_sign_flips": sum(before * after < 0 for before, after in signs),
                f"{key}_silenced": sum(before != 0 == after for before, after in signs),
                f"{key}_woken": sum(before == 0 != after for before, after in signs),
            }
    return counts


def _sign(value: float) -> int:
    return 0 if abs(value) <= NOISE else 1 if value > 0 else -1


_SWEEP = {
    "matters": "groups where it matters",
    "collapsed": "groups without advantage",
    "sign_flips": "responses whose sign flips",
    "format_share": "weight of format",
}


def _show(done: Replayed, counts: Mapping[str, float], sweep: list[dict[str, float]], console: Any) -> None:
    from rich.table import Table

    table = Table("", "", title="Replay", show_header=False)
    for name, value in counts.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
    console.print(table)

    changed = sorted(
        zip(done.records, done.components, done.advantages), key=lambda row: -abs(row[1]["score"] - row[0]["score"])
    )
    changed = [row for row in changed[:SHOWN] if abs(row[1]["score"] - row[0]["score"]) > NOISE]
    if changed:
        table = Table(title="Most changed")
        for column in ("rollout", "task", "score", "advantage", "response ends"):
            table.add_column(column, no_wrap=True)
        for record, components, advantage in changed:
            before = record.get("advantage")
            before = "–" if before is None else f"{before:+.2f}"
            text = " ".join(record["response"].split())
            scores = f"{record['score']:.2f} → {components['score']:.2f}"
            row = (record["rollout"], record["task"], scores, f"{before} → {advantage:+.2f}", text[-24:])
            table.add_row(*map(_plain, row))
        console.print(table)

    table = Table("lambda", *_SWEEP.values(), title="Lambda counterfactual: against accuracy alone")
    for row in sweep:
        table.add_row(f"{row['lambda']:g}", *(f"{row[name]:.1%}" for name in _SWEEP))
    console.print(table)
    console.print("First order and off-policy: the rollouts stay those that were sampled.")

    if done.refused:
        table = Table("rollouts", "why they could not be scored")
        for reason, count in Counter(reason for _, reason in done.refused).most_common(SHOWN):
            table.add_row(f"{count:,}", _plain(reason))
        console.print(table)


def _plain(text: Any) -> Any:
    from rich.text import Text

    return Text(str(text))  # a response is no markup


def _plot(done: Replayed, sweep: list[dict[str, float]], folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    scores, advantages = figure.subplots(1, 2)
    for axes, name, after in (
        (scores, "score", [component["score"] for component in done.components]),
        (advantages, "advantage", done.advantages),
    ):
        kept = [(record[name], value) for record, value in zip(done.records, after) if record.get(name) is not None]
        places = Counter((round(before, 3), round(value, 3)) for before, value in kept)
        axes.axline((0, 0), slope=1, color="0.8", zorder=0)
        sizes = [8 + 200 * count / max(places.values()) for count in places.values()]
        axes.scatter([x for x, _ in places], [y for _, y in places], sizes, alpha=0.6)
        axes.set(xlabel=f"recorded {name}", ylabel=f"new {name}", title=f"{name}, {len(kept):,} rollouts")
    figure.savefig(folder / "replay.png", dpi=120)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in _SWEEP.items():
        axes.plot([row["lambda"] for row in sweep], [100 * row[name] for row in sweep], "o-", label=label)
    axes.set(xlabel="lambda", ylabel="%", title="Lambda counterfactual (first order, off-policy)", ylim=(-2, 102))
    axes.legend()
    figure.savefig(folder / "lambda.png", dpi=120)


# ---------------------------------------------------------------- command


def settings(arguments: Sequence[str]) -> tuple[list[Path], DictConfig]:
    """Files, and {reward, advantage, judge, lambdas, out} of a command line.

    Raises:
        ReplayError: an unknown key, recipe or missing choice.
    """
    paths = [Path(argument) for argument in arguments if "=" not in argument]
    given = [argument for argument in arguments if "=" in argument]
    chosen = {"reward": None, "advantage": None, "judge": "recorded"}
    names = {key: value for key, _, value in (argument.partition("=") for argument in given) if key in chosen}
    chosen |= names
    config: dict[str, Any] = {"lambdas": [0.0, 0.1, 0.3, 0.5], "out": "replay"}
    for part, name in chosen.items():
        recipe = RECIPES / part / f"{name}.yaml"
        known = sorted(path.stem for path in recipe.parent.glob("*.yaml")) + ["recorded"] * (part == "judge")
        if name not in known:
            raise ReplayError(f"{part}={name or '?'}: choose of {', '.join(known)}")
        config[part] = {"name": "recorded"} if name == "recorded" else OmegaConf.load(recipe)
    try:
        base = OmegaConf.create(config)
        OmegaConf.set_struct(base, True)
        overrides = OmegaConf.from_dotlist([argument for argument in given if argument.partition("=")[0] not in chosen])
        merged = OmegaConf.merge(base, overrides)
        OmegaConf.resolve(merged)
    except OmegaConfBaseException as error:
        raise ReplayError(f"{' '.join(str(error).split())}") from error
    if not merged.lambdas or not all(_share(value) for value in merged.lambdas):
        raise ReplayError(f"lambdas={merged.lambdas}: one or more, in [0, 1]")
    if not paths:
        raise ReplayError("name one or more rollout files, e.g. runs/demo/main/rl/rollouts/*.jsonl")
    return paths, merged


def _share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def main(arguments: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(_plain(__doc__))
        return
    try:
        paths, config = settings(arguments)
        plain = OmegaConf.to_container(config)
        judge = None if plain["judge"]["name"] == "recorded" else build(plain["judge"])
        done = replay(paths, plain["reward"], plain["advantage"], judge)
        counts, sweep = summary(done), lambda_counterfactual(done.records, plain["lambdas"])
    except (ReplayError, JudgeError, OSError) as error:
        console.print("[bold red]error[/]", _plain(error))
        raise SystemExit(1) from error

    folder = Path(plain["out"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "replay.jsonl").open("w", encoding="utf-8") as out:
        for row, (record, components) in enumerate(zip(done.records, done.components)):
            line = {"rollout": record["rollout"], "id": record["sample"].get("id"), "before": record["score"]}
            line |= {"components": components, "advantage": done.advantages[row]}
            if done.perception_advantages:
                line["advantage_perception"] = done.perception_advantages[row]
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    result = {"settings": plain, "counts": counts, "lambda": sweep, "refused": done.refused}
    (folder / "summary.json").write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
    _plot(done, sweep, folder)
    _show(done, counts, sweep, console)
    console.print(f"written to {folder}: summary.json, replay.jsonl, replay.png, lambda.png")


if __name__ == "__main__":
    main(sys.argv[1:])

"""A run folder -> one HTML page that opens anywhere, a summary for machines, and the plots as PNG."""

import asyncio
import json
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from data_tools.render import read_clip
from data_tools.sample import read_samples
from evaluation import plots
from evaluation.analyses import advantage_collapse, process_table, read_rollouts
from evaluation.answers import Schema, run_schema
from evaluation.benchmarks import BENCHMARKS
from evaluation.compare import compare
from evaluation.confusable import confusable_table, matrices
from evaluation.controls import control_table
from evaluation.runs import NAMES
from evaluation.runs import Model as Predicted
from evaluation.score import OUTCOMES, Judgement, Prediction, balanced_accuracy_gain, judge_all, read_predictions
from evaluation.table import FORMS, Table, html, settings_hash, write_tables
from rewards.counterfactual import lambda_counterfactual
from rewards.judge import RuleJudge

ADDED = {"sft": "SFT", "rl": "RL"}  # what such a model had more than the one before it
TRAINER_STATE, RL_METRICS = "sft/trainer_state.json", "rl/metrics.jsonl"
EXAMPLES_PER_KIND = 6
STRIP_FRAMES, STRIP_HEIGHT = 8, 120  # frames and pixels, at most
BROWSED, BROWSED_CLIPS = 1000, 500  # questions, and clips with frames, that can be browsed
LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


class ReportError(ValueError):
    """A run folder that cannot be reported; the message names the file and the stage to run."""


@dataclass(frozen=True)
class Model:
    """One evaluated model.

    Attributes:
        key: base, sft or rl.
        scores: as `evaluation.score.score_judgements` gives them.
        judgements: in the order of the test samples.
        predictions: by sample id.
        schema: of the responses.
    """

    key: str
    scores: dict[str, Any]
    judgements: list[Judgement]
    predictions: dict[str, Prediction] = field(default_factory=dict)
    schema: Schema = "ota"

    @property
    def name(self) -> str:
        return NAMES[self.key]


def write_report(run_dir: Path) -> None:
    """Write `report/index.html`, `summary.json`, `*.png` and `tables/*` from what the stages left in `run_dir`.

    Models that were not evaluated are left out.

    Raises:
        ReportError: a missing or broken input, naming the stage that writes it.
        SampleError, PredictionError: a bad record, naming file and line.
    """
    recipe = _recipe(run_dir)
    models = _models(run_dir, recipe)
    keys = [model.key for model in models]
    sft_log = _trainer_log(run_dir) if "sft" in keys or (run_dir / TRAINER_STATE).exists() else []
    rl_steps = _rl_steps(run_dir) if "rl" in keys or (run_dir / RL_METRICS).exists() else []
    stages = _stages(run_dir)
    rollouts = read_rollouts(run_dir / "rl" / "rollouts")
    tables = _tables(run_dir, recipe, models)
    changes = [(before, after, _gain(before, after)) for before, after in pairwise(models)]
    page = {
        "run": f"{run_dir.resolve().parent.name} / {run_dir.resolve().name}",
        "models": models,
        "verdict": verdict(models, [gain for _, _, gain in changes]),
        "primitives": sorted({asked for model in models for asked in model.scores["per_primitive"]}),
        "look_alikes": matrices({model.key: model.judgements for model in models}),
        "examples": _examples(run_dir, recipe, models),
        "browser": _browser(run_dir, recipe, models),
        "tables": [{"name": t.name, "title": t.title, "rows": len(t.rows), "html": html(t)} for t in tables],
        "forms": list(FORMS),
        "counterfactual": _counterfactual(rollouts),
        "splits": _splits(run_dir),
        "contact_sheet": _data_uri(_need(run_dir, "data/contact_sheet.png", "data").read_bytes(), "png"),
        "stages": stages,
        "warmed_up": "model" in {stage["stage"] for stage in stages},
        "recipe": _need(run_dir, "recipe.yaml", "data").read_text(encoding="utf-8"),
        "manifest": json.dumps(_json(run_dir, "manifest.json", "data"), indent=2, ensure_ascii=False),
    }

    # Every input is read by now: a report is written whole or not at all.
    report = run_dir / "report"
    report.mkdir(exist_ok=True)
    write_tables(report / "tables", tables)
    figures = _figures(models, sft_log, rl_steps, advantage_collapse(rollouts))
    for name, (figure, _) in figures.items():
        (report / f"{name}.png").write_bytes(plots.png(figure))
    page["figures"] = {name: Markup(plots.svg(figure, name, text)) for name, (figure, text) in figures.items()}
    _write(report / "index.html", _environment().get_template("report.html.j2").render(page))
    summary = _summary(models, changes, rl_steps, stages)
    _write(report / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")


def verdict(models: Sequence[Model], gains: Sequence[tuple[float, list[float]] | None]) -> list[str]:
    """What the numbers say, in plain sentences; the first one is about the last training stage.

    Args:
        gains: change of balanced accuracy, and its 95 % interval, from each model to the next one.
    """
    sentences = [_change(*pair, gain) for pair, gain in zip(pairwise(models), gains)][::-1]
    last, s = models[-1], models[-1].scores
    if s["balanced_accuracy"] is None:
        return [*sentences, f"{last.name}: balanced accuracy is undefined, since Yes or No is never the right answer."]
    low, high = s["balanced_accuracy_ci"]
    beats = "is above" if low > 0.5 else "is below" if high < 0.5 else "cannot be told from"
    sentences.append(
        f"{last.name}'s balanced accuracy of {s['balanced_accuracy']:.3f} [{low:.3f}, {high:.3f}] {beats} the 0.500 of "
        f"a constant answer; its accuracy is {s['accuracy']:.3f}, that of always No {s['always_no_accuracy']:.3f}."
    )
    if s["observation_fidelity"] is not None:
        sentences.append(
            f"Its observation states what the camera really did in {100 * s['observation_fidelity']:.0f} % of the "
            f"responses (the best constant observation: {100 * s['constant_observation_fidelity']:.0f} %)."
        )
    return sentences


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # what a model wrote must never become HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "words": lambda text: text.replace("_", " "), "duration": _duration}
    return environment


def _change(before: Model, after: Model, gain: tuple[float, list[float]] | None) -> str:
    added = ADDED[after.key]
    if gain is None:
        return f"Whether {added} helped cannot be said: balanced accuracy is undefined."
    by, (low, high) = gain
    b, a = before.scores["balanced_accuracy"], after.scores["balanced_accuracy"]
    numbers = f"balanced accuracy {b:.3f} → {a:.3f} ({by:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})"
    if low > 0:
        return f"{added} helped: {numbers}."
    if high < 0:
        return f"{added} made it worse: {numbers}."
    return f"{added} did not measurably help: {numbers}; the interval holds zero."


def _need(run_dir: Path, name: str, stage: str) -> Path:
    path = run_dir / name
    if not path.exists():
        raise ReportError(f"{path} is missing: run the stage {stage!r} first")
    return path


def _json(run_dir: Path, name: str, stage: str) -> Any:
    path = _need(run_dir, name, stage)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}:{error.lineno}: no JSON ({error.msg}): run the stage {stage!r} again") from error


def _recipe(run_dir: Path) -> dict[str, Any]:
    path = _need(run_dir, "recipe.yaml", "data")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: no YAML ({error}): run the stage 'data' again") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path}: holds no recipe: run the stage 'data' again")
    return content


def _models(run_dir: Path, recipe: Mapping[str, Any]) -> list[Model]:
    keys = [key for key in NAMES if (run_dir / "eval" / key).is_dir()]
    if not keys:
        raise ReportError(f"{run_dir / 'eval'} holds none of {', '.join(NAMES)}: run the stage 'evaluate' first")
    limit = (recipe.get("eval") or {}).get("limit")
    samples = list(read_samples(_need(run_dir, "data/test.jsonl", "data")))[:limit]
    ids, schema = {sample.id for sample in samples}, run_schema(recipe.get("reward") or {})
    models = []
    for key in keys:
        scores = _json(run_dir, f"eval/{key}/scores.json", "evaluate")
        predictions = read_predictions(_need(run_dir, f"eval/{key}/predictions.jsonl", "evaluate"), ids)
        judgements = judge_all(samples, predictions, schema)
        outcomes = Counter(j.outcome for j in judgements)
        if any(scores.get(outcome, 0) != outcomes[outcome] for outcome in OUTCOMES):
            path = run_dir / f"eval/{key}/scores.json"
            raise ReportError(f"{path} does not match predictions.jsonl beside it: run the stage 'evaluate' again")
        models.append(Model(key, scores, judgements, predictions, schema))
    return models


def _tables(run_dir: Path, recipe: Mapping[str, Any], models: Sequence[Model]) -> list[Table]:
    """Models side by side, their differences, look-alikes, analyses of process, and controls where they were run."""
    samples = [j.sample for j in models[0].judgements]
    predicted = [Predicted(m.name, samples, m.predictions, m.schema, recipe) for m in models]
    seed = models[0].scores["bootstrap"]["seed"]
    settings = {"recipe": recipe, "seed": seed, "ids": [sample.id for sample in samples]}
    made = compare(BENCHMARKS["samples"], predicted, seed, settings)
    judged = {model.name: model.judgements for model in models}
    hashed = settings_hash(settings)
    made.append(confusable_table(judged, hashed, seed))
    if all("motion" in s.extras for s in samples if s.task in ("binary", "choice")):
        made.append(asyncio.run(process_table(judged, RuleJudge(), "the motion lexicon", hashed, seed)))
    made.append(control_table(run_dir, predicted, hashed, seed))
    return [table for table in made if table is not None]


def _counterfactual(rollouts: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What other weights of the format reward would have changed; empty where the rewards have no such parts."""
    needed = {"group", "accuracy", "format"}
    held = [record for record in rollouts if needed <= record.keys()]
    return lambda_counterfactual(held, LAMBDAS) if held else []


def _trainer_log(run_dir: Path) -> list[dict[str, float]]:
    """What the Trainer logged per step; its last record (run time of the whole training) has no loss."""
    return [record for record in _json(run_dir, TRAINER_STATE, "sft")["log_history"] if "loss" in record]


def _rl_steps(run_dir: Path) -> list[dict[str, float]]:
    """Metrics per training step. Step 0 is verl's validation before training; a resumed step stands twice."""
    path = _need(run_dir, RL_METRICS, "rl")
    steps: dict[int, dict[str, float]] = defaultdict(dict)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ReportError(f"{path}:{number}: no JSON ({error.msg}): run the stage 'rl' again") from error
            steps[record["step"]] |= record["data"]
    return [{"step": step, **steps[step]} for step in sorted(steps) if step > 0]


def _stages(run_dir: Path) -> list[dict[str, Any]]:
    names = sorted(path.name for path in (run_dir / "stages").glob("*.json"))
    if not names:
        raise ReportError(f"{run_dir / 'stages'} holds no stage: run the stage 'data' first")
    return sorted((_json(run_dir, f"stages/{name}", Path(name).stem) for name in names), key=lambda s: s["started"])


def _splits(run_dir: Path) -> list[dict[str, Any]]:
    """Questions by task and clips of each split."""
    splits = []
    for split in ("sft", "rl", "test"):
        samples = list(read_samples(_need(run_dir, f"data/{split}.jsonl", "data")))
        tasks = Counter(sample.task for sample in samples)
        splits.append({"split": split, "clips": len({s.video for s in samples}), "tasks": list(tasks), "count": tasks})
    return splits


def _gain(before: Model, after: Model) -> tuple[float, list[float]] | None:
    return balanced_accuracy_gain(before.judgements, after.judgements, after.scores["bootstrap"]["seed"])


def _figures(
    models: Sequence[Model],
    sft_log: Sequence[Mapping[str, float]],
    rl_steps: Sequence[Mapping[str, float]],
    collapse: Sequence[Mapping[str, float]],
) -> dict[str, tuple[Figure, str]]:
    """File name -> figure and what it shows, for those whose data is there."""
    figures = {
        "balanced_accuracy": (
            plots.intervals({model.key: model.scores for model in models}, NAMES),
            "Balanced accuracy of each model with its 95 % interval",
        ),
        "sft_curves": (plots.sft_curves(sft_log), "Loss, gradient norm and learning rate over SFT steps"),
        "rl_curves": (plots.rl_curves(rl_steps), "Rewards and health of RL over its steps"),
        "collapse": (
            plots.collapse_curves(collapse),
            "Share of groups whose rewards are all equal, over RL steps",
        ),
        "motion_matrix": (
            plots.motion_matrices({model.name: model.scores["motion_matrix"] for model in models[-2:]}),
            "True motion against the motion stated in the observation, row shares in percent",
        ),
    }
    return {name: (figure, text) for name, (figure, text) in figures.items() if figure is not None}


def _examples(run_dir: Path, recipe: Mapping[str, Any], models: Sequence[Model]) -> list[dict[str, Any]]:
    """A few test samples of each kind, as many different motions as there are, with every model's judgement."""
    groups: dict[str, list[tuple[Judgement, ...]]] = {kind: [] for kind in _kinds(models)}
    for judgements in zip(*(model.judgements for model in models)):
        groups[_kind(models, judgements)].append(judgements)
    examples = []
    for order, (kind, group) in enumerate(groups.items()):
        for judgements in _spread(group)[:EXAMPLES_PER_KIND]:
            sample = judgements[0].sample
            examples.append(
                {
                    "kind": kind,
                    "order": order,
                    "of": len(group),
                    "sample": sample,
                    "strip": _strip(_clip(run_dir, recipe, sample.video)),
                    "answers": list(zip(models, judgements)),
                }
            )
    return examples


def _clip(run_dir: Path, recipe: Mapping[str, Any], video: str) -> Path:
    root = (recipe.get("data") or {}).get("media_root")
    path = Path(root).expanduser() / video if root else run_dir / "data" / video
    if not path.exists():
        raise ReportError(f"{path} is missing: run the stage 'data' first")
    return path


def _browser(run_dir: Path, recipe: Mapping[str, Any], models: Sequence[Model]) -> dict[str, Any]:
    """Every question with every model's answer and what kind of error it is; frames of the first clips.

    Questions that some model got wrong come first where there are more than BROWSED.
    """
    rows = list(zip(*(model.judgements for model in models)))
    rows = sorted(rows, key=lambda row: all(j.right for j in row))[:BROWSED]
    videos = list(dict.fromkeys(row[0].sample.video for row in rows))[:BROWSED_CLIPS]
    items = [
        {
            "id": row[0].sample.id,
            "video": row[0].sample.video,
            "task": row[0].sample.task,
            "question": row[0].sample.question,
            "options": row[0].sample.options,
            "right": row[0].sample.answer_text if row[0].sample.options else None,
            "gold": _gold(row[0]),
            "motion": row[0].sample.extras.get("motion"),
            "answers": [_told(j) for j in row],
        }
        for row in rows
    ]
    frames = {video: _strip(_clip(run_dir, recipe, video), STRIP_HEIGHT // 2, quality=70) for video in videos}
    kinds = Counter(kind for item in items for answer in item["answers"] for kind in answer["kinds"])
    return {
        "models": [model.name for model in models],
        "keys": [model.key for model in models],
        "items": items,
        "frames": frames,
        "kinds": [kind for kind, _ in kinds.most_common()],
        "of": len(models[0].judgements),
    }


def _gold(j: Judgement) -> str:
    sample = j.sample
    return sample.answer_text or json.dumps(sample.spans or sample.boxes or sample.events)


def _told(j: Judgement) -> dict[str, Any]:
    kinds: list[str] = [j.outcome.replace("_", " ")]
    motion = j.sample.extras.get("motion")
    if j.right and motion and j.parsed.observation and j.stated != motion:
        kinds.append("right, observation false")
    if not j.right and j.stated and j.stated == motion:
        kinds.append("wrong, observation true")
    if j.outcome == "wrong" and j.sample.extras.get("confusable"):
        kinds.append("look-alike")
    if j.truncated:
        kinds.append("cut")
    parts = j.parsed.parts if j.parsed.ok else {"response": j.response}
    return {"kinds": kinds, "reason": j.reason, "value": round(j.value, 3), "parts": parts}


def _kinds(models: Sequence[Model]) -> tuple[str, ...]:
    if len(models) == 1:
        return "right", "wrong"
    added = ADDED[models[-1].key]
    return f"fixed by {added}", f"broken by {added}", "both wrong", "both right"


def _kind(models: Sequence[Model], judgements: Sequence[Judgement]) -> str:
    kinds, after = _kinds(models), judgements[-1].right
    if len(models) == 1:
        return kinds[not after]
    before = judgements[-2].right
    return kinds[{(False, True): 0, (True, False): 1, (False, False): 2, (True, True): 3}[before, after]]


def _spread(group: Sequence[tuple[Judgement, ...]]) -> list[tuple[Judgement, ...]]:
    """The group in an order that shows each motion once before it shows one twice."""
    seen: Counter[str] = Counter()
    rounds = []
    for judgements in group:
        motion = judgements[0].sample.extras.get("motion", "")
        rounds.append(seen[motion])
        seen[motion] += 1
    return [group[i] for i in np.argsort(rounds, kind="stable")]


def _strip(clip: Path, most: int = STRIP_HEIGHT, quality: int = 90) -> str:
    """Frames of a clip side by side, spread evenly over it, as a data URI."""
    try:
        frames_THWC = read_clip(clip)
    except (av.FFmpegError, ValueError) as error:  # ValueError: no frame in it
        raise ReportError(f"{clip} cannot be decoded ({error}): run the stage 'data' again") from error
    count, height, width = frames_THWC.shape[:3]
    shown = frames_THWC[np.linspace(0, count - 1, min(count, STRIP_FRAMES)).round().astype(int)]
    scale = min(1, most / height)
    size = round(width * scale), round(height * scale)
    strip = Image.new("RGB", (len(shown) * (size[0] + 3) - 3, size[1]), "white")
    for i, frame in enumerate(shown):
        strip.paste(Image.fromarray(frame).resize(size), (i * (size[0] + 3), 0))
    out = BytesIO()
    strip.save(out, "JPEG", quality=quality)
    return _data_uri(out.getvalue(), "jpeg")


def _data_uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(image).decode()}"


def _summary(
    models: Sequence[Model],
    changes: Sequence[tuple[Model, Model, tuple[float, list[float]] | None]],
    rl_steps: Sequence[Mapping[str, float]],
    stages: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "models": {model.key: model.scores for model in models},
        "balanced_accuracy_gain": {
            f"{before.key}_to_{after.key}": gain and {"gain": gain[0], "ci": gain[1]} for before, after, gain in changes
        },
        "wall_seconds": {stage["stage"]: stage["wall_seconds"] for stage in stages},
        "peak_rss_gib": max(stage["peak_rss_gib"] for stage in stages),
    }
    if rl_steps:
        pearson = [step.get("training/rollout_actor_probs_pearson_corr") for step in rl_steps]
        summary["rl"] = {
            "steps": len(rl_steps),
            "rollout_actor_pearson_min": min((r for r in pearson if r is not None), default=None),
            "format_reward": [step.get("reward/format") for step in rl_steps],
            "accuracy_reward": [step.get("reward/accuracy") for step in rl_steps],
        }
    return summary


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)

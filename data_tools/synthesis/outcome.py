"""What a run has made: kept, dropped and failed records, the funnel as table and picture, and a sheet to read."""

import csv
import hashlib
import heapq
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_tools.sample import Sample
from data_tools.synthesis.pipeline import SampleFailure, Settings, clip_of, frames_of, read_usage, shards_of
from data_tools.synthesis.shards import SynthesisError, read_log, shard_samples
from rewards.endpoint import data_url
from rewards.response import SCHEMAS, parse

Review = list[dict[str, Any]]


def collect(settings: Settings) -> tuple[dict[str, Any], Review]:
    """Write kept.jsonl (samples with their chain, for SFT), dropped.jsonl, failed.jsonl and summary.json.

    Only one shard is in memory at a time.

    Returns:
        The summary, and the chains for the review sheet.
    """
    folder, counts = settings.folder, Counter()
    dropped_by: Counter[str] = Counter()
    kept_of: dict[str, Counter[str]] = {}
    drawn: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}
    names = ("kept", "dropped", "failed")
    with ExitStack() as stack:
        out = {name: stack.enter_context(_partial(folder, name).open("w", encoding="utf-8")) for name in names}
        for shard in shards_of(folder):
            chains = read_log(shard / "chains.jsonl", settings.chain_key)
            verdicts = read_log(shard / "verdicts.jsonl", settings.verdict_key)
            for sample in shard_samples(shard):
                counts["samples"] += 1
                chain, verdict = chains.get(sample.id, {}).get("text"), verdicts.get(sample.id)
                counts["generated"] += chain is not None
                if verdict is None:
                    counts["pending"] += 1
                    continue
                outcome = verdict["outcome"]
                counts[outcome] += 1
                group = f"{sample.task}: {sample.answer_text}" if sample.task == "binary" else sample.task
                kept_of.setdefault(group, Counter())[outcome] += 1
                if outcome == "kept":
                    line = sample.model_copy(update={"chain": chain}).model_dump_json(exclude_none=True)
                else:
                    why = {"by": verdict.get("by"), "detail": verdict["detail"], "chain": chain}
                    line = json.dumps({"id": sample.id, **why, "sample": sample.model_dump()}, ensure_ascii=False)
                    dropped_by[verdict.get("by") or "failed"] += 1
                out[outcome].write(line + "\n")
                if outcome != "failed":
                    shown = {"sample": sample, "chain": chain, "outcome": outcome, **verdict}
                    _draw(drawn.setdefault(verdict.get("by", "kept"), []), settings, shown)
    for name in names:
        _partial(folder, name).replace(folder / f"{name}.jsonl")
    if counts["samples"] != sum(counts[name] for name in (*names, "pending")):
        raise SynthesisError(f"{folder}: counts do not add up: {dict(counts)}")
    summary = {
        "name": settings.name,
        **{name: counts[name] for name in ("samples", "generated", *names, "pending")},
        "dropped_by": {name: dropped_by[name] for name in settings.filters},
        "kept_share_of": {
            group: round(seen["kept"] / (seen["kept"] + seen["dropped"]), 4)
            for group, seen in sorted(kept_of.items())
            if seen["kept"] + seen["dropped"]
        },
        "usage": read_usage(folder),
        "settings": {"chains": settings.chain_key, "verdicts": settings.verdict_key},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary, _reviewed(drawn, settings.review)


def _partial(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl.partial"


def _draw(heap: list, settings: Settings, shown: dict[str, Any]) -> None:
    """Keep the `review` records whose hash is smallest: a random draw in one pass, the same every time."""
    luck = hashlib.sha256(f"{settings.seed} {shown['id']}".encode()).hexdigest()
    heapq.heappush(heap, (-int(luck, 16), shown["id"], shown))
    if len(heap) > settings.review:
        heapq.heappop(heap)


def _reviewed(drawn: dict[str, list], count: int) -> Review:
    """`count` kept chains, then `count` dropped ones, each filter's in turn."""
    kept = [shown for *_, shown in drawn.pop("kept", [])]
    turns = [[shown for *_, shown in heap] for _, heap in sorted(drawn.items())]
    dropped = [heap[turn] for turn in range(count) for heap in turns if turn < len(heap)]
    return kept + dropped[:count]


def funnel(summary: dict[str, Any], reference: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row per step: its name, how many are left, their share of the generated chains; the reference's beside it."""
    left = summary["kept"] + summary["dropped"]
    steps = [("generated", left)]
    for name, count in summary["dropped_by"].items():
        left -= count
        steps.append((f"after {name}", left))
    rows = [
        {"step": step, "count": count, "share": count / steps[0][1] if steps[0][1] else 0.0} for step, count in steps
    ]
    if reference:
        rows[0]["reference"], rows[-1]["reference"] = reference["generated"], reference["kept"]
        rows[-1]["reference_share"] = reference["kept"] / reference["generated"]
        rows[0]["reference_share"] = 1.0
    return rows


def write_report(settings: Settings, summary: dict[str, Any], review: Review) -> None:
    """Write funnel.{csv,md,png} and review.html."""
    rows = funnel(summary, settings.reference)
    columns = ["step", "count", "share", "reference", "reference_share"]
    with (settings.folder / "funnel.csv").open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, columns)
        table.writeheader()
        table.writerows(rows)
    (settings.folder / "funnel.md").write_text(markdown(settings, summary, rows), encoding="utf-8")
    draw_funnel(settings, rows, settings.folder / "funnel.png")
    (settings.folder / "review.html").write_text(review_sheet(settings, summary, rows, review), encoding="utf-8")


def markdown(settings: Settings, summary: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The funnel and the bill."""
    name = settings.reference["name"] if settings.reference else "reference"
    lines = [f"| step | chains | share | {name} (its own) |", "|---|---:|---:|---:|"]
    for row in rows:
        other = f"{row['reference']:,} ({row['reference_share']:.1%})" if "reference" in row else ""
        lines.append(f"| {row['step']} | {row['count']:,} | {row['share']:.1%} | {other} |")
    lines.append("")
    outcomes = ", ".join(f"{summary[outcome]:,} {outcome}" for outcome in ("kept", "dropped", "failed", "pending"))
    lines += [f"{summary['samples']:,} samples: {outcomes}.", ""]
    lines.append("| asked | requests | from cache | prompt tokens | completion tokens | cost |")
    lines.append("|---|---:|---:|---:|---:|---:|")
    for who, used in summary["usage"].items():
        numbers = [f"{used[field]:,.0f}" for field in ("requests", "cached", "prompt_tokens", "completion_tokens")]
        lines.append(f"| {who} | {' | '.join(numbers)} | {used['cost']:,.2f} |")
    lines += ["", "| kept of | share |", "|---|---:|"]
    lines += [f"| {_cell(group)} | {share:.1%} |" for group, share in summary["kept_share_of"].items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def draw_funnel(settings: Settings, rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of what is left after each step; the reference's own share as a hollow bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["share"] for row in rows], color="#4477aa", height=0.6, label="this run")
    for place, row in zip(places, rows):
        axes.text(row["share"] + 0.01, place, f"{row['count']:,} ({row['share']:.1%})", va="center")
    if settings.reference:
        shares = [(place, row["reference_share"]) for place, row in zip(places, rows) if "reference" in row]
        label = f"{settings.reference['name']}: {settings.reference['generated']:,} → {settings.reference['kept']:,}"
        axes.barh(*zip(*shares), height=0.8, fill=False, edgecolor="#cc6677", linestyle="--", label=label)
        figure.legend(loc="outside upper right", ncols=2, fontsize="small")
    axes.set_yticks(places, [row["step"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    axes.set_xlabel("share of the generated chains")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)


def review_sheet(settings: Settings, summary: dict[str, Any], rows: list[dict[str, Any]], review: Review) -> str:
    """One HTML page without a link to anywhere: the drawn chains beside frames of their clips."""
    from jinja2 import Environment, PackageLoader

    cards = [_card(settings, shown) for shown in review]
    page = Environment(loader=PackageLoader("data_tools.synthesis", "."), autoescape=True).get_template(
        "review.html.j2"
    )
    return page.render(name=settings.name, summary=summary, rows=rows, reference=settings.reference, cards=cards)


def _card(settings: Settings, shown: dict[str, Any]) -> dict[str, Any]:
    sample: Sample = shown["sample"]
    try:
        frames = [data_url(frame, "image/jpeg") for frame in frames_of(clip_of(sample, settings), 6, longest_side=160)]
        problem = None
    except SampleFailure as error:
        frames, problem = [], str(error)
    parsed = parse(shown["chain"])
    parts = [(tag, parsed.parts[tag]) for tag in SCHEMAS["ota"]] if parsed.ok else [("as written", shown["chain"])]
    why = f"{shown['by']}: {shown['detail']}" if "by" in shown else None
    return {
        "sample": sample,
        "outcome": shown["outcome"],
        "why": why,
        "parts": parts,
        "frames": frames,
        "problem": problem,
    }

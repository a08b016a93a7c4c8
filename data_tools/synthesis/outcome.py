"""Outcome of a run: kept, dropped and failed records, the funnel as table and picture, and a review sheet."""

import csv
import hashlib
import heapq
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_tools.files import whole_file, write_json, write_text
from data_tools.sample import Sample
from data_tools.synthesis.pipeline import read_usage, shards_of
from data_tools.synthesis.request import SampleFailure, previews
from data_tools.synthesis.settings import Settings
from data_tools.synthesis.shards import SynthesisError, read_log, shard_samples
from data_tools.templates import template
from rewards.judges.client import data_url
from rewards.response import SCHEMAS, parse

OUTCOMES = ("kept", "dropped", "failed")
Review = list[dict[str, Any]]
Drawn = tuple[int, str, dict[str, Any]]  # luck, id, what is shown


def collect(settings: Settings) -> tuple[dict[str, Any], Review]:
    """Write kept.jsonl (samples with their chain, for SFT), dropped.jsonl, failed.jsonl and summary.json.

    Only one shard is in memory at a time.

    Returns:
        The summary, and the chains for the review sheet.
    """
    outcomes = _Outcomes(settings)
    with ExitStack() as stack:
        out = {name: stack.enter_context(whole_file(settings.folder / f"{name}.jsonl")) for name in OUTCOMES}
        for shard in shards_of(settings.folder):
            chains = read_log(shard / "chains.jsonl", settings.chain_key)
            verdicts = read_log(shard / "verdicts.jsonl", settings.verdict_key)
            for sample in shard_samples(shard):
                chain, verdict = chains.get(sample.id, {}).get("text"), verdicts.get(sample.id)
                outcomes.count(sample, chain, verdict)
                if verdict is not None:
                    out[verdict["outcome"]].write(_line(sample, chain, verdict) + "\n")
    summary = outcomes.summary()
    write_json(settings.folder / "summary.json", summary)
    return summary, _reviewed(outcomes.drawn, settings.review)


def _line(sample: Sample, chain: str | None, verdict: dict[str, Any]) -> str:
    if verdict["outcome"] == "kept":
        return sample.model_copy(update={"chain": chain}).model_dump_json(exclude_none=True)
    why = {"by": verdict.get("by"), "detail": verdict["detail"], "chain": chain}
    return json.dumps({"id": sample.id, **why, "sample": sample.model_dump()}, ensure_ascii=False)


class _Outcomes:
    """Counts of a run, and the chains drawn for review by the filter that dropped them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.drawn: dict[str, list[Drawn]] = {}
        self._counts: Counter[str] = Counter()
        self._dropped_by: Counter[str] = Counter()
        self._groups: dict[str, Counter[str]] = {}

    def count(self, sample: Sample, chain: str | None, verdict: dict[str, Any] | None) -> None:
        self._counts["samples"] += 1
        self._counts["generated"] += chain is not None
        if verdict is None:
            self._counts["pending"] += 1
            return
        outcome = verdict["outcome"]
        self._counts[outcome] += 1
        group = f"{sample.task}: {sample.answer_text}" if sample.task == "binary" else sample.task
        self._groups.setdefault(group, Counter())[outcome] += 1
        if outcome != "kept":
            self._dropped_by[verdict.get("by") or "failed"] += 1
        if outcome != "failed":
            shown = {"sample": sample, "chain": chain, "outcome": outcome, **verdict}
            _draw(self.drawn.setdefault(verdict.get("by", "kept"), []), self.settings, shown)

    def summary(self) -> dict[str, Any]:
        settings, counts = self.settings, self._counts
        if counts["samples"] != sum(counts[name] for name in (*OUTCOMES, "pending")):
            raise SynthesisError(f"{settings.folder}: counts do not add up: {dict(counts)}")
        return {
            "name": settings.name,
            **{name: counts[name] for name in ("samples", "generated", *OUTCOMES, "pending")},
            "dropped_by": {name: self._dropped_by[name] for name in settings.filters},
            "kept_share_of": {
                group: round(seen["kept"] / (seen["kept"] + seen["dropped"]), 4)
                for group, seen in sorted(self._groups.items())
                if seen["kept"] + seen["dropped"]
            },
            "usage": read_usage(settings.folder),
            "settings": {"chains": settings.chain_key, "verdicts": settings.verdict_key},
        }


def _draw(heap: list[Drawn], settings: Settings, shown: dict[str, Any]) -> None:
    """Keep the `review` records whose hash is smallest: a random draw in one pass, the same every time."""
    luck = hashlib.sha256(f"{settings.seed} {shown['id']}".encode()).hexdigest()
    heapq.heappush(heap, (-int(luck, 16), shown["id"], shown))
    if len(heap) > settings.review:
        heapq.heappop(heap)


def _reviewed(drawn: dict[str, list[Drawn]], count: int) -> Review:
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
    with whole_file(settings.folder / "funnel.csv") as out:
        table = csv.DictWriter(out, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    write_text(settings.folder / "funnel.md", markdown(settings, summary, rows))
    draw_funnel(settings, rows, settings.folder / "funnel.png")
    write_text(settings.folder / "review.html", review_sheet(settings, summary, rows, review))


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
    lines.append("| client | requests | from cache | prompt tokens | completion tokens | cost |")
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
    axes.barh(range(len(rows)), [row["share"] for row in rows], color="#4477aa", height=0.6, label="this run")
    for index, row in enumerate(rows):
        axes.text(row["share"] + 0.01, index, f"{row['count']:,} ({row['share']:.1%})", va="center")
    if settings.reference:
        steps = [index for index, row in enumerate(rows) if "reference" in row]
        shares = [rows[index]["reference_share"] for index in steps]
        label = f"{settings.reference['name']}: {settings.reference['generated']:,} → {settings.reference['kept']:,}"
        axes.barh(steps, shares, height=0.8, fill=False, edgecolor="#cc6677", linestyle="--", label=label)
        figure.legend(loc="outside upper right", ncols=2, fontsize="small")
    axes.set_yticks(range(len(rows)), [row["step"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    axes.set_xlabel("share of the generated chains")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)


def review_sheet(settings: Settings, summary: dict[str, Any], rows: list[dict[str, Any]], review: Review) -> str:
    """One HTML page without a link to anywhere: the drawn chains beside frames of their clips."""
    cards = [_card(settings, shown) for shown in review]
    page = template(Path(__file__).with_name("review.html.j2"))
    kept = settings.folder / "kept.jsonl"
    return page.render(
        name=settings.name, summary=summary, rows=rows, reference=settings.reference, cards=cards, kept=kept
    )


def _card(settings: Settings, shown: dict[str, Any]) -> dict[str, Any]:
    sample: Sample = shown["sample"]
    try:
        frames = [data_url(frame, "image/jpeg") for frame in previews(sample, settings, 6, longest_side=160)]
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

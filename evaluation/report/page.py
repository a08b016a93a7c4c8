"""A run folder -> one HTML page that opens anywhere, a summary for machines, clips that play, and the plots as PNG."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from data_tools.files import whole_file, write_json, write_text
from data_tools.run_folder import RunFolder
from data_tools.templates import template
from evaluation.diagnosis import diagnose
from evaluation.report import plots
from evaluation.report.clips import FOLDER, Clips, jpeg_uri
from evaluation.report.examples import BROWSED
from evaluation.report.load import Inputs, left_out, load, splits
from evaluation.report.official import results, results_table
from evaluation.report.sets import set_figures, set_page, set_process, set_tables
from evaluation.report.summary import summary
from evaluation.rollouts.counterfactual import PARTS, lambda_counterfactual
from evaluation.rollouts.records import advantage_collapse
from evaluation.runs import NAMES, Model, need, read_json
from evaluation.table import FORMS, Table, html, write_tables
from rewards.judges.build import build
from rewards.judges.protocol import JudgeError

LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
RULES = {"name": "rules"}
Figures = Mapping[str, tuple[Figure, str]]

# A model may write control characters, which HTML does not allow: shown as their pictures.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}


def write_report(
    run: RunFolder,
    judge: Mapping[str, Any] = RULES,
    into: Path | None = None,
    browsed: int = BROWSED,
    viewer: str | None = None,
) -> list[str]:
    """Write `report/{index.html,summary.json,*.png,clips/,tables/}` from what the stages left in the run.

    Args:
        judge: of observation and thought, as in recipes/judge.
        into: folder to write in place of the run's `report`.
        browsed: questions that can be browsed, at most.
        viewer: link to the viewer of the run's rollouts and answers, for the page; None: no link.

    Returns:
        What the judge could not decide about, and why, by set.

    Raises:
        RunError, SampleError, PredictionError: see `load`. JudgeError: settings of no judge.
    """
    inputs, clips, folder = load(run), Clips(), into or run.report
    colours = plots.colours([model for chosen in inputs.sets for model in chosen.models])
    process = asyncio.run(_process(inputs, judge))
    tables = {
        chosen.name: [*set_tables(inputs, chosen), *([table] if table else [])]
        for chosen, (table, _) in zip(inputs.sets, process)
    }
    figures = {chosen.name: set_figures(chosen, colours) for chosen in inputs.sets}
    sets = [
        set_page(chosen, tables[chosen.name], _svg(figures[chosen.name]), note, clips, len(inputs.sets), browsed)
        for chosen, (_, note) in zip(inputs.sets, process)
    ]
    training, overview = _training(inputs), results_table(inputs.sets, inputs.recipe)
    page = _page(inputs, overview) | {"sets": sets, "colours": colours, "clips": clips, "figures": _svg(training)}
    page |= {"viewer": viewer}
    filters: dict[str, Any] = {"number": _number, "words": lambda text: text.replace("_", " "), "duration": _duration}
    text = template(Path(__file__).with_name("report.html.j2"), **filters).render(page).translate(CONTROLS)

    # Every input is read by now: an error leaves the last report whole.
    write_tables(folder / "tables", [*([overview] if overview else []), *(t for each in tables.values() for t in each)])
    pngs = training | {f"{name}_{figure}": each for name, of in figures.items() for figure, each in of.items()}
    for name, (figure, _) in pngs.items():
        _write(folder / f"{name}.png", plots.png(figure))
    for name, content in clips.files.items():
        _write(folder / FOLDER / name, content)
    for path in (folder / FOLDER).glob("*.mp4"):
        if path.name not in clips.files:
            path.unlink()
    write_text(folder / "index.html", text)
    write_json(folder / "summary.json", summary(inputs, [table for table, _ in process]))
    return [f"{chosen.name}: {note}" for chosen, (_, note) in zip(inputs.sets, process) if note]


async def _process(inputs: Inputs, settings: Mapping[str, Any]) -> list[tuple[Table | None, str]]:
    """Of each set; a judge that cannot answer is not asked about the sets that follow."""
    judge, found, silent = build(settings), [], ""
    name = "the motion lexicon" if settings["name"] == "rules" else str(settings["model"])
    for chosen in inputs.sets:
        try:
            found.append((None, silent) if silent else await set_process(inputs, chosen, judge, name))
        except JudgeError as error:
            silent = f"{name} gave no verdicts: {error}"
            found.append((None, silent))
    return found


def _write(path: Path, content: bytes) -> None:
    with whole_file(path, "wb") as out:
        out.write(content)


def _svg(figures: Figures) -> dict[str, Markup]:
    return {name: Markup(plots.svg(figure, name, text)) for name, (figure, text) in figures.items()}


def _page(inputs: Inputs, overview: Table | None) -> dict[str, Any]:
    """The template's values of the run as a whole, without the figures."""
    run, root = inputs.run, inputs.run.root.resolve()
    rendered, model = (inputs.recipe.get("data") or {}).get("rendered") is not None, inputs.recipe.get("model") or {}
    sheet = need(run.contact_sheet, "data") if rendered and run.record("data").exists() else None
    return {
        "run": f"{root.parent.name} / {root.name}",
        "about": _about(inputs),
        "models": _all_models(inputs),
        "results": results(inputs.sets),
        "overview": {"name": overview.name, "html": html(overview)} if overview else None,
        "forms": list(FORMS),
        "findings": diagnose(inputs.rl_steps, inputs.held_out, _metric(inputs)),
        "counterfactual": _counterfactual(inputs),
        "splits": splits(inputs),
        "left_out": left_out(run),
        "contact_sheet": sheet and jpeg_uri(Image.open(sheet)),
        "stages": inputs.stages,
        "warmed_up": model.get("path") is None and bool(model.get("warm_up")),
        "recipe": run.recipe.read_text(encoding="utf-8"),
        "manifest": json.dumps(read_json(run.manifest, "data"), indent=2, ensure_ascii=False),
    }


def _about(inputs: Inputs) -> list[str]:
    """What the run is: its model, reward and advantage as far as the recipe names them, its seed, and when."""
    recipe = inputs.recipe
    model = recipe.get("model") or {}
    named = {group: (recipe.get(group) or {}).get("name") for group in ("reward", "advantage")}
    said = [model.get("path") or "a tiny model built for this run"] if "path" in model else []
    said += [f"{group} {name}" for group, name in named.items() if name]
    said += [f"seed {recipe['seed']}"] if "seed" in recipe else []
    return [*said, inputs.stages[-1]["started"][:10]]


def _metric(inputs: Inputs) -> str:
    """Of the val split, as the run chose its best checkpoint by."""
    settings = (inputs.recipe.get("rl") or {}).get("held_out") or {}
    return str(settings.get("metric", "balanced_accuracy"))


def _all_models(inputs: Inputs) -> list[Model]:
    """One of each name, in the order of training."""
    found = {model.key: model for chosen in inputs.sets for model in chosen.models}
    return sorted(found.values(), key=lambda model: [*NAMES, ""].index(model.stage))


def _counterfactual(inputs: Inputs) -> list[dict[str, float]]:
    """What another weight of the format reward would have changed; empty where the reward has none."""
    usable = [record for record in inputs.rollouts if PARTS <= record.components.keys()]
    if not usable or "format_weight" not in (inputs.recipe.get("reward") or {}):
        return []
    return lambda_counterfactual([r.group for r in usable], [r.components for r in usable], LAMBDAS)


def _training(inputs: Inputs) -> dict[str, tuple[Figure, str]]:
    """File name -> figure and what it shows, for those whose data is there."""
    figures = {
        "sft_curves": (plots.sft_curves(inputs.sft_log), "Loss, gradient norm and learning rate over SFT steps"),
        "rl_curves": (plots.rl_curves(inputs.rl_steps), "Rewards and health of RL over its steps"),
        "held_out": (
            plots.held_out_curves(inputs.held_out, inputs.rl_steps),
            "The val split while RL trains, beside the training reward",
        ),
        "collapse": (
            plots.collapse_curves(advantage_collapse(inputs.rollouts)),
            "Share of groups whose rewards are all equal, over RL steps",
        ),
    }
    return {name: (figure, text) for name, (figure, text) in figures.items() if figure is not None}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

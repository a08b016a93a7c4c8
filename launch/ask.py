"""Ask a model about a clip: python -m launch.ask --video clip.mp4 --question "Does the camera pan?" --options Yes,No

MODEL is a run folder (its last model is taken), the folder of a model, or a hub id.
"""

import hashlib
import json
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from launch.errors import LaunchError, explain, known_errors
from launch.recipe import ROOT, Recipe

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = 8  # frames in a row of the strip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def chosen_model(model: str, experiment: str) -> tuple[Recipe, str]:
    """Recipe and folder (or hub id) of the model that `model` names.

    A model inside a run folder keeps that run's recipe; for any other, `experiment` gives prompt and media budget.

    Raises:
        LaunchError: a run without a model, or a folder that is neither.
    """
    from launch.run import Run

    folder = Path(model).expanduser().absolute()
    if (folder / "recipe.yaml").exists():
        run = Run(_recipe_of(folder), folder)
        if run.record("merge"):
            return run.recipe, str(run.merged)
        if run.record("sft"):
            return run.recipe, run.sft_checkpoint(run.recipe.rl.start_epoch)
        if run.record("model"):
            return run.recipe, run.base_model
        raise LaunchError(f"{folder} holds no model yet: run its stages first (model, sft, rl, merge), or give another")
    if not folder.exists():
        if model.count("/") != 1:
            raise LaunchError(f"{model}: there is no such folder; give a run folder, a model's folder or a hub id")
        return _recipe_for(model, experiment), model
    if not (folder / "config.json").exists():
        raise LaunchError(f"{folder} is neither a run folder (recipe.yaml) nor a model (config.json)")
    run_folder = next((parent for parent in folder.parents if (parent / "recipe.yaml").exists()), None)
    return _recipe_of(run_folder) if run_folder else _recipe_for(str(folder), experiment), str(folder)


def _recipe_of(run_folder: Path) -> Recipe:
    recipe = Recipe.model_validate(yaml.safe_load((run_folder / "recipe.yaml").read_text()))
    return _on_one_device(recipe)


def _recipe_for(model: str, experiment: str) -> Recipe:
    from launch.plan import compose_recipe

    recipe, _ = compose_recipe([f"experiment={experiment}"])
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": model})})
    return _on_one_device(recipe)


def _on_one_device(recipe: Recipe) -> Recipe:
    device = "cuda" if recipe.cluster.device == "cuda" and any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
    cluster = {"device": device, "nodes": 1, "gpus_per_node": recipe.rl.rollout.tensor_parallel_size, "address": None}
    return recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update=cluster)})


def ask(recipe: Recipe, model: str, video: Path, question: str, options: list[str]) -> tuple[dict[str, Any], Path]:
    """The record of the answer, and the picture of the frames that it was given on.

    Raises:
        LaunchError, ClipError, SampleError: naming the video, the model or the options.
    """
    from data_tools.media import normalise_all
    from data_tools.probe import ClipError
    from data_tools.sample import Sample, write_samples
    from launch.engine import run_engine
    from launch.evaluate import model_folder, require_room
    from launch.predict import ENV

    runs = Path(recipe.runs).expanduser()
    asked = (runs if runs.is_absolute() else ROOT / runs) / "asked"
    store = asked / "clips"
    ((_, clip),) = normalise_all([video.name], video.absolute().parent, store, recipe.budget, workers=1)
    if isinstance(clip, ClipError):
        raise clip
    weights = model_folder(model)
    require_room(recipe, weights)
    name = hashlib.sha256(f"{clip.video}\n{model}\n{question}\n{options}".encode()).hexdigest()[:12]
    folder = asked / name
    folder.mkdir(parents=True, exist_ok=True)
    strip(recipe, store / clip.video, folder / "frames.png")

    task = {"task": "choice", "answer": "A"} if options else {"task": "open_ended", "answer": "?"}  # nobody knows it
    try:
        sample = Sample(
            id="asked", video=clip.video, question=question, options=options, source="user", split="test", **task
        )
    except ValueError as error:
        raise LaunchError(f"the question cannot be asked: {error.errors()[0]['msg']}") from error
    write_samples(folder / "question.jsonl", [sample])
    out = folder / "answer.jsonl"
    out.unlink(missing_ok=True)
    work = {"samples": str(folder / "question.jsonl"), "control": None, "out": str(out)}
    job = {"recipe": recipe.model_dump(mode="json"), "root": str(store), "models": {str(weights): [work]}}
    (folder / "job.json").write_text(json.dumps(job))
    run_engine(
        recipe,
        ["launch.predict", str(folder / "job.json")],
        folder / "engine.log",
        "asking the model",
        1,
        lambda: int(out.exists() and out.stat().st_size > 0),
        ENV,
    )
    record = json.loads(out.read_text())
    if "error" in record:
        raise LaunchError(f"no answer: {record['error']}\nsee {folder / 'engine.log'}")
    return record, folder / "frames.png"


def strip(recipe: Recipe, clip: Path, path: Path) -> None:
    """Write the frames that the model is given as one picture, `COLUMNS` in a row, each with its second."""
    from PIL import Image, ImageDraw

    from launch.answers import frames_of

    content = [{"type": "video", "video": str(clip), **recipe.media.model_dump()}]
    with redirect_stderr(StringIO()):  # it tells which decoder it takes
        ((frames, facts),) = frames_of([{"role": "user", "content": content}], recipe.budget.token_side // 2)
    height, width = frames.shape[-2:]
    rows = -(-len(frames) // COLUMNS)
    sheet = Image.new("RGB", (min(len(frames), COLUMNS) * (width + 2), rows * (height + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (frame, index) in enumerate(zip(frames, facts["frames_indices"])):
        left, top = number % COLUMNS * (width + 2), number // COLUMNS * (height + 16)
        sheet.paste(Image.fromarray(frame.permute(1, 2, 0).byte().numpy()), (left, top + 14))
        draw.text((left + 2, top + 1), f"{float(index) / facts['fps']:.2f} s", fill="black")
    sheet.save(path)


def shown(record: dict[str, Any], schema: str = "ota") -> "RenderableType":
    """The parts of a response in panels; a malformed one as it is, with what is wrong."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    from rewards.response import parse

    parsed = parse(record["response"], schema)
    if parsed.ok:
        texts = {part.capitalize(): text for part, text in parsed.parts.items()}
    else:
        texts = {f"Response ({parsed.error})": record["response"]}
    if "option_probs" in record:
        texts["Probabilities"] = "   ".join(f"{name} {100 * p:.1f} %" for name, p in record["option_probs"].items())
    # Text() takes what a model wrote as it is; a string would be read for rich's markup
    return Group(*(Panel(Text(text), title=title, title_align="left") for title, text in texts.items()))


@app.command()
def main(
    video: Annotated[Path, typer.Option(help="the clip")],
    question: Annotated[str, typer.Option(help="what to ask")],
    options: Annotated[str, typer.Option(help="options to choose from, with commas between them")] = "",
    model: Annotated[str, typer.Option(help="run folder, model's folder or hub id")] = "runs/demo/main",
    experiment: Annotated[
        str, typer.Option(help="gives prompt and media budget of a model without a run")
    ] = "camreasoner",
) -> None:
    """Ask a model about a clip; shows observation, thought and answer, and the frames that it saw."""
    from evaluation.answers import run_schema, schema_of
    from launch.run import console

    try:
        if not question.strip():
            raise LaunchError("the question is empty")
        recipe, weights = chosen_model(model, experiment)
        choices = [option.strip() for option in options.split(",") if option.strip()]
        record, picture = ask(recipe, weights, video, question, choices)
    except known_errors() as error:
        explain(error)
        sys.exit(1)
    console.print(shown(record, schema_of(run_schema(recipe.reward.model_dump()))))
    console.print(f"model {weights}\nframes {picture}")


if __name__ == "__main__":
    app()

"""Ask a model about a clip or images, and show its answer and the frames that it saw.

python -m launch.ask video=clip.mp4 question="Does the camera pan?" options=Yes,No model=runs/demo/main
python -m launch.ask images=[a.jpg,b.jpg] question="Is <image> a wider shot than <image>?" options=Yes,No
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from data_tools.cli import run_command
from launch.errors import LaunchError
from launch.models import ModelArguments, chosen_model, model_folder, require_context_length
from launch.recipe import ROOT, Recipe
from launch.recipe.evaluation import Images

if TYPE_CHECKING:
    from rich.console import RenderableType

    from data_tools.media.store import Medium
    from data_tools.sample import Sample
COLUMNS = 8  # frames in a row of the strip


class AskArguments(ModelArguments):
    video: Path | None = Field(None, description="the clip")
    images: list[Path] = Field([], description="images in its place; <image> in the question says where each stands")
    max_pixels: int = Field(1_003_520, gt=0, description="of an image, where the model's recipe has no media.images")
    question: str = Field(description="what to ask")
    options: str = Field("", description="options to choose from, with commas between them")


def ask(
    recipe: Recipe, model: str, video: Path | None, images: list[Path], question: str, options: list[str]
) -> tuple[dict[str, Any], Path]:
    """The record of the answer, and the picture of the frames or images that the model saw.

    Args:
        video: the clip; None: `images`, within the recipe's budget.

    Raises:
        LaunchError, ClipError: naming the video, an image, the model or the options. PromptError, FieldError: the
            prompt cannot ask such a question.
    """
    from data_tools.sample import write_samples
    from data_tools.tokens import check_question
    from launch.engines.vllm.job import Job, Questions, run_job

    runs = Path(recipe.runs)
    asked = (runs if runs.is_absolute() else ROOT / runs) / "asked"
    store = asked / "clips"
    made = shown_by(recipe, video, images, store)
    sample = sample_of(made, question, options)
    check_question(sample, recipe.form)  # a prompt that has no text for it, and place-holders that show nothing
    weights = model_folder(model)
    require_context_length(recipe, weights)
    name = hashlib.sha256(f"{sample.shown}\n{model}\n{question}\n{options}".encode()).hexdigest()[:12]
    folder = asked / name
    folder.mkdir(parents=True, exist_ok=True)
    strip(recipe, sample, store, folder / "frames.png")

    part = Questions(
        samples=folder / "question.jsonl", root=store, media=recipe.media, form=recipe.form, out=folder / "answer.jsonl"
    )
    write_samples(part.samples, [sample])
    part.out.unlink(missing_ok=True)
    job = Job(recipe=recipe, models={str(weights): [part]})
    run_job(job, folder / "job.json", folder / "engine.log", "asking the model")
    record = json.loads(part.out.read_text())
    if "error" in record:
        raise LaunchError(f"no answer: {record['error']}\nsee {folder / 'engine.log'}")
    return record, folder / "frames.png"


def shown_by(recipe: Recipe, video: Path | None, images: list[Path], store: Path) -> "list[Medium]":
    """What the model is shown: the clip of a video, or images."""
    from data_tools.media.normalise import Clip
    from data_tools.media.store import normalise_one, normalise_still
    from data_tools.sample import Cut

    if video is not None:
        made = normalise_one(Cut(video.name), video.absolute().parent, store, recipe.budget)
        return [made] if isinstance(made, Clip) else [*made.stills]
    stills = recipe.stills_of(recipe.media)
    assert stills is not None, "a recipe that is asked about images has a budget for them"
    return [normalise_still(image.name, image.absolute().parent, store, stills) for image in images]


def sample_of(made: "Sequence[Medium]", question: str, options: list[str]) -> "Sample":
    """The question as a sample, whose answer nobody knows."""
    from data_tools.media.normalise import Clip
    from data_tools.media.store import paths_of
    from data_tools.sample import Sample

    fields: dict[str, Any] = {"task": "choice", "answer": "A"} if options else {"task": "open_ended", "answer": "?"}
    fields |= {"id": "asked", "question": question, "source": "user", "split": "test"}
    if isinstance(clip := made[0], Clip):
        fields |= {"video": clip.video, "duration": clip.duration}
    else:
        fields["images"] = [path for one in made for path in paths_of(one)]
    try:
        return Sample.model_validate({**fields, "options": options})
    except ValidationError as error:
        raise LaunchError(f"not a valid question: {error.errors()[0]['msg']}") from error


def strip(recipe: Recipe, sample: "Sample", root: Path, path: Path) -> None:
    """Write what the model sees as one picture, `COLUMNS` in a row: frames with their seconds, images with numbers."""
    from PIL import Image, ImageDraw

    from launch.engines.vllm.clips import frames_of, items_of

    turns = [{"role": "user", "content": items_of(sample, root, recipe.media)}]
    with redirect_stderr(StringIO()):  # the loader prints which decoder it takes
        seen = frames_of(turns, recipe.budget.token_side // 2)
    if sample.images:
        titled = [(image, f"image {number}") for number, image in enumerate(seen, 1)]
    else:
        ((frames, facts),) = seen
        pictures = [Image.fromarray(frame.permute(1, 2, 0).byte().numpy()) for frame in frames]
        titled = [(p, f"{float(i) / facts['fps']:.2f} s") for p, i in zip(pictures, facts["frames_indices"])]
    width, height = (max(picture.size[axis] for picture, _ in titled) for axis in (0, 1))
    rows = -(-len(titled) // COLUMNS)
    sheet = Image.new("RGB", (min(len(titled), COLUMNS) * (width + 2), rows * (height + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, title) in enumerate(titled):
        left, top = number % COLUMNS * (width + 2), number // COLUMNS * (height + 16)
        sheet.paste(picture, (left, top + 14))
        draw.text((left + 2, top + 1), title, fill="black")
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
    # Text() shows a model's words as they are; in a string, rich would interpret markup
    return Group(*(Panel(Text(text), title=title, title_align="left") for title, text in texts.items()))


def with_images(recipe: Recipe, count: int, max_pixels: int) -> Recipe:
    """The recipe with a media budget for so many images, of its own size where it has one.

    Raises:
        MediaError: a size that Qwen's loader would change.
    """
    from data_tools.media.budget import loader_pixels

    least, _ = loader_pixels(recipe.budget.token_side)
    images = recipe.media.images or Images(max_pixels=max_pixels, min_pixels=least)
    images = images.model_copy(update={"most": max(images.most, count)})
    recipe = recipe.model_copy(update={"media": recipe.media.model_copy(update={"images": images})})
    _ = recipe.stills_of(recipe.media)  # refuses what a loader would change
    return recipe


def main(arguments: AskArguments) -> None:
    from launch.console import console

    if not arguments.question.strip():
        raise LaunchError("the question is empty")
    if (arguments.video is None) == (not arguments.images):
        raise LaunchError("give either video=... or images=[...]")
    recipe, weights = chosen_model(arguments.model, arguments.experiment, arguments.trust_remote_code)
    options = [option.strip() for option in arguments.options.split(",") if option.strip()]
    images = arguments.images
    if images:
        recipe = with_images(recipe, len(images), arguments.max_pixels)
    record, picture = ask(recipe, weights, arguments.video, images, arguments.question, options)
    console.print(shown(record, recipe.form.schema_of("choice" if options else "open_ended")))
    console.print(f"model {weights}\nframes {picture}")


if __name__ == "__main__":
    run_command(main, AskArguments, __doc__)

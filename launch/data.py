"""Stage `data`: samples and clips, and the files that LLaMA-Factory and verl read.

python -m launch.data experiment=demo
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import LaunchError
from launch.recipe import Recipe, command
from launch.run import Run, console, open_run, stage

if TYPE_CHECKING:
    from data_tools.rendered import RenderedSettings

SPLITS = ("sft", "rl", "test")


def prepare(run: Run) -> None:
    """Write data/{sft,rl,test}.jsonl, data/llamafactory/ and data/verl/ of a run."""
    from data_tools.exports import VideoBudget, export_llamafactory, export_verl
    from data_tools.sample import read_samples

    recipe = run.recipe
    run.data.mkdir(parents=True, exist_ok=True)
    if recipe.data.rendered is not None:
        _render(run)
    else:
        _collect(run)
    texts = {"system": recipe.data.system, "instruction": recipe.data.instruction}
    budget = VideoBudget(**recipe.media.model_dump())
    counts = {}
    for split in SPLITS:
        path = run.data / f"{split}.jsonl"
        if not path.exists():
            continue
        samples = list(read_samples(path))
        counts[split] = len(samples)
        if split == "sft":
            export_llamafactory(samples, run.media_root, run.data / "llamafactory", **texts)
        else:
            export_verl(samples, run.media_root, run.data / "verl" / f"{split}.parquet", budget, **texts)
    console.print("  samples: " + ", ".join(f"{split} {count}" for split, count in counts.items()))


def rendered_settings(recipe: Recipe) -> "RenderedSettings":
    """Settings of the rendered clips, which must be those of the media budget.

    Raises:
        LaunchError: naming the key.
    """
    from pydantic import ValidationError

    from data_tools.rendered import RenderedSettings

    try:
        settings = RenderedSettings(seed=recipe.seed, **recipe.data.rendered)
    except ValidationError as error:
        first = error.errors()[0]
        raise LaunchError(f"data.rendered.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    media = recipe.media
    if settings.fps != media.fps or settings.frames > media.max_frames or settings.size**2 > media.max_pixels:
        raise LaunchError(
            f"data.rendered draws {settings.frames} frames of {settings.size}² pixels at {settings.fps} fps, "
            f"which is not the media budget ({media.max_frames} frames, {media.max_pixels} pixels, {media.fps} fps)"
        )
    return settings


def _render(run: Run) -> None:
    from data_tools.rendered import build_rendered
    from launch.engine import progress_bar

    recipe = run.recipe
    settings = rendered_settings(recipe)
    with progress_bar() as bar:
        task = bar.add_task("rendering clips", total=None)
        workers = recipe.cluster.cpus or os.cpu_count() or 1
        build_rendered(settings, run.data, workers, lambda done, total: bar.update(task, completed=done, total=total))
    console.print(f"  contact sheet: {run.data / 'contact_sheet.png'}")


def _collect(run: Run) -> None:
    """Take over the user's sample files, checked line by line."""
    from data_tools.sample import read_samples, write_samples

    for split, source in run.recipe.data.files.items():
        if split not in SPLITS:
            raise LaunchError(f"data.files.{split}: a split is one of {', '.join(SPLITS)}")
        if source is None:
            continue
        path = Path(source).expanduser()
        if not path.exists():
            raise LaunchError(f"data.files.{split}: {path} is missing")
        write_samples(run.data / f"{split}.jsonl", read_samples(path))


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    with stage(run, "data") as needed:
        if needed:
            if recipe.force and run.data.exists():
                shutil.rmtree(run.data)
            prepare(run)


if __name__ == "__main__":
    main()

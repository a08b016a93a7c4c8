"""Stage `data`: samples and clips, and the files that LLaMA-Factory and verl read.

python -m launch.data experiment=demo
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import LaunchError
from launch.recipe import Recipe, command
from launch.run import Run, console, open_run, stage

if TYPE_CHECKING:
    from data_tools.media import Clip
    from data_tools.rendered import RenderedSettings
    from data_tools.sample import Sample
    from data_tools.sources import Rejected
    from launch.recipe import SourceFile

SPLITS = ("sft", "rl", "test")


def prepare(run: Run) -> None:
    """Write data/{sft,rl,test}.jsonl, data/llamafactory/ and data/verl/ of a run."""
    from data_tools.exports import export_eval, export_llamafactory, export_verl
    from data_tools.media import write_manifest
    from data_tools.sample import read_samples

    recipe = run.recipe
    run.data.mkdir(parents=True, exist_ok=True)
    if recipe.data.rendered is not None:
        clips = _render(run)
    else:
        _collect(run)
        _refuse_leaks(run)  # by path
        clips = _normalise(run)
        _refuse_leaks(run)  # by content, which names the clips now
    write_manifest(run.data, recipe.budget, len(clips))
    texts = {"system": recipe.data.system, "instruction": recipe.data.instruction}
    counts = {}
    for split in SPLITS:
        path = run.data / f"{split}.jsonl"
        if not path.exists():
            continue
        samples = partial(read_samples, path)
        if split == "sft":
            counts[split] = export_llamafactory(samples(), run.media_root, run.data / "llamafactory", **texts)
        else:
            table = run.data / "verl" / f"{split}.parquet"
            counts[split] = export_verl(samples(), run.media_root, table, clips, **texts)
        if split == "test":
            export_eval(samples(), run.media_root, run.data / "eval" / f"{split}.jsonl", clips, **texts)
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


def _render(run: Run) -> "dict[str, Clip]":
    """Draw clips that are in the media budget as they are."""
    from data_tools.media import Clip
    from data_tools.rendered import build_rendered
    from launch.engine import progress_bar

    recipe = run.recipe
    settings = rendered_settings(recipe)
    with progress_bar() as bar:
        task = bar.add_task("rendering clips", total=None)
        workers = recipe.cluster.cpus or os.cpu_count() or 1
        build_rendered(settings, run.data, workers, lambda done, total: bar.update(task, completed=done, total=total))
    console.print(f"  contact sheet: {run.data / 'contact_sheet.png'}")
    step = recipe.budget.step_ms
    facts = {"frames": settings.frames, "step_ms": step, "width": settings.size, "height": settings.size}
    drawn = sorted((run.data / "clips").glob("*.mp4"))
    return {
        f"clips/{path.name}": Clip(
            f"clips/{path.name}", **facts, duration=settings.frames * step / 1000, source_sha256=""
        )
        for path in drawn
    }


def _collect(run: Run) -> None:
    """Take over the user's sample files and published sets, checked record by record."""
    from data_tools.sample import read_samples, write_samples

    for split, paths in run.recipe.data.paths().items():
        if split not in SPLITS:
            raise LaunchError(f"data.files.{split}: a split is one of {', '.join(SPLITS)}")
        for path in paths:
            if not Path(path).expanduser().exists():
                raise LaunchError(f"data.files.{split}: {path} is missing")
        file = run.recipe.data.files[split]
        if file is None:
            continue
        if isinstance(file, str):
            samples = read_samples(Path(file).expanduser())
        else:
            samples = _read_sources(run, split, file if isinstance(file, list) else [file])
        write_samples(run.data / f"{split}.jsonl", samples)


def _refuse_leaks(run: Run) -> None:
    """Refuse to train on clips that are evaluated."""
    from data_tools.sample import read_samples
    from data_tools.splits import Splits, refuse_leaks

    splits = Splits()
    paths = [path for split in SPLITS if (path := run.data / f"{split}.jsonl").exists()]
    for path in paths:
        for sample in read_samples(path):
            splits.add(sample)
    for path in paths:
        refuse_leaks(read_samples(path), splits)


def _normalise(run: Run) -> "dict[str, Clip]":
    """Make clips in the media budget of the samples' videos, and let the samples name those.

    A sample whose video is broken goes to data/quarantine.jsonl with the reason.

    Returns:
        clips[path under the media root]

    Raises:
        LaunchError: more than data.max_quarantined of the samples, or all of a split's.
    """
    from data_tools.media import Clip, normalise_all
    from data_tools.sample import read_samples, write_samples
    from data_tools.sources import Rejected
    from launch.engine import progress_bar

    recipe = run.recipe
    # Shared by all runs, since a clip's name says what it was made of.
    root, store = Path(recipe.data.media_root).expanduser().absolute(), run.folder.parent.parent / "clips"
    paths = [path for split in SPLITS if (path := run.data / f"{split}.jsonl").exists()]
    videos = list(dict.fromkeys(sample.video for path in paths for sample in read_samples(path)))
    with progress_bar() as bar:
        task = bar.add_task("normalising videos", total=len(videos))
        made = dict(
            normalise_all(
                videos,
                root,
                store,
                recipe.budget,
                recipe.cluster.cpus,
                ray=recipe.cluster.address,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        )
    link = run.data / "clips"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(store, run.data), target_is_directory=True)
    clips = {
        video: replace(clip, video=f"clips/{clip.video}") for video, clip in made.items() if isinstance(clip, Clip)
    }

    def kept(path: Path) -> "Iterator[Sample]":
        nonlocal bad
        for sample in read_samples(path):
            if clip := clips.get(sample.video):
                extras = {**sample.extras, "source_video": sample.video}
                duration = sample.duration or clip.duration
                yield sample.model_copy(update={"video": clip.video, "duration": duration, "extras": extras})
            else:
                bad += 1
                fault = Rejected(str(path), sample.id, "video", str(made[sample.video]))
                quarantine.write(fault.line())

    good, bad = 0, 0
    with (run.data / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        for path in paths:
            left = write_samples(path, kept(path))
            if not left:
                raise LaunchError(f"none of the videos of {path} can be used: {quarantine.name} says why")
            good += left
    if bad:
        console.print(
            f"  {good + bad} samples = {good} + {bad} whose videos are broken: {quarantine.name}", markup=False
        )
    if bad > recipe.data.max_quarantined * (good + bad):
        raise LaunchError(
            f"{bad} of {good + bad} samples have broken videos, more than data.max_quarantined="
            f"{recipe.data.max_quarantined:g}: {quarantine.name} says why"
        )
    return {clip.video: clip for clip in clips.values()}


def _read_sources(run: Run, split: str, sources: list["SourceFile"]) -> Iterator["Sample"]:
    """Samples of published files; a record that is none goes to data/<split>.quarantine.jsonl with its reason."""
    from data_tools.sources import named, read, shuffle_options

    bad = 0
    with (run.data / f"{split}.quarantine.jsonl").open("w", encoding="utf-8") as quarantine:

        def put_aside(rejected: "Rejected") -> None:
            nonlocal bad
            bad += 1
            quarantine.write(rejected.line())

        for file in sources:
            for sample in read(named(file.source), Path(file.path).expanduser(), split, put_aside, file.folder):
                yield sample if file.shuffle is None else shuffle_options(sample, file.shuffle)
    if bad:
        console.print(f"  {split}: {bad} records are no samples; {quarantine.name} says why", markup=False)


@command
def main(recipe: Recipe) -> None:
    run = open_run(recipe)
    with stage(run, "data") as needed:
        if needed:
            prepare(run)


if __name__ == "__main__":
    main()

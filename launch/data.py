"""Stage `data`: samples and clips, and the files that LLaMA-Factory and verl read.

python -m launch.data experiment=demo
"""

import os
from collections.abc import Mapping
from pathlib import Path

from launch.checks import check_counts, check_motions, check_rewards, require_batch, require_motions
from launch.command import command
from launch.compose import rendered_settings
from launch.console import console, progress_bar
from launch.engines.ray.map import clip_map
from launch.errors import LaunchError
from launch.models import require_family
from launch.planning.prompts import check_prompts
from launch.recipe import Recipe
from launch.run import Run
from launch.samples.dropped import take_drops
from launch.samples.labels import label_files, link_roots, pose_folder, wanted


def prepare(run: Run) -> Mapping[str, int]:
    """Write data/{sft,rl,test}.jsonl, data/llamafactory/ and data/verl/ of a run; the samples of each split."""
    from data_tools.prepare import Videos, prepare_files, prepare_rendered
    from data_tools.sample import read_samples

    recipe, folder = run.recipe, run.paths
    with progress_bar() as bar:
        task = bar.add_task("rendering clips" if recipe.data.rendered else "normalising videos", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if recipe.data.rendered is not None:
            workers = recipe.cluster.cpus or os.cpu_count() or 1
            settings = rendered_settings(recipe)
            counts = prepare_rendered(folder, settings, recipe.budget, wanted(recipe), workers, progress)
        else:
            root, most = media_root(recipe), recipe.data.max_quarantined
            videos = Videos(root, run.store, recipe.budget, most, link_roots(recipe), recipe.stills_of(recipe.media))
            labels, each, poses = label_files(recipe), clip_map(recipe), pose_folder(recipe)
            counts = prepare_files(folder, labels, videos, wanted(recipe), each, _report, progress, poses)
    if "rl" in counts:
        require_motions(recipe, read_samples(folder.samples("rl")))
    if recipe.data.rendered is not None:
        console.print(f"  contact sheet: {folder.data / 'contact_sheet.png'}")
    console.print("  samples: " + ", ".join(f"{split} {count}" for split, count in counts.items()))
    return counts


def _report(text: str) -> None:
    console.print(f"  {text}", markup=False)


def media_root(recipe: Recipe) -> Path:
    """Where the videos of the label files lie."""
    return Path(recipe.data.media_root or "").absolute()


def check(run: Run) -> None:
    """Refuse missing files, records that are not samples, and prompts that do not fit, before anything is written.

    What is wrong in a published file goes to the quarantine, once the stage has started.
    """
    from data_tools.sources import named

    recipe = run.recipe
    if recipe.model.path is not None:
        require_family(recipe, Path(recipe.model.path))
    if recipe.data.rendered is not None:
        rendered_settings(recipe)
    else:
        for source in [file.source for files in label_files(recipe).values() for file in files if file.source]:
            named(source)
        if not media_root(recipe).is_dir():
            raise LaunchError(f"data.media_root: {media_root(recipe)} is not a folder: give the one of your videos")
        pose_folder(recipe)
        check_motions(recipe)
    check_counts(recipe)
    check_prompts(recipe)
    check_rewards(recipe, judged=False)


@command("data", check, before=take_drops)
def main(run: Run) -> None:
    counts = prepare(run)
    if run.recipe.data.rendered is None:
        from data_tools.contact_sheet import write_contact_sheet

        console.print(f"  contact sheet: {write_contact_sheet(run.paths, counts, run.recipe.form)}", markup=False)
    if "rl" in counts and "rl" in run.recipe.models.values():
        require_batch(run.recipe, counts["rl"])


if __name__ == "__main__":
    main()

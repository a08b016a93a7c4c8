"""Stage `sets`: evaluation sets other than the run's own test split, with clips in their own media budget.

python -m launch.sets experiment=videop2r 'eval.sets.mmvu={benchmark: mmvu, files: validation.json, media_root: mmvu}'

sets/<set>/samples.jsonl       the questions, their clips under clips/
sets/<set>/quarantine.jsonl    questions without a usable video, and why
sets/<set>/set.json            what it was made of; a set that is still made of it is not made again
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.files import sha256, whole_file, write_json
from launch.command import command
from launch.console import console, progress_bar
from launch.engines.ray.map import clip_map
from launch.errors import LaunchError
from launch.planning.sizes import require_room
from launch.recipe import Recipe
from launch.recipe.evaluation import EvalSet
from launch.run import Run
from launch.samples.labels import link_roots

if TYPE_CHECKING:
    from data_tools.sample import Sample


def media_root(recipe: Recipe, name: str) -> Path:
    """Where a set's videos lie.

    Raises:
        LaunchError: neither the set nor the recipe has a media root, or it is missing.
    """
    given = recipe.eval.sets[name].media_root or recipe.data.media_root
    if given is None:
        raise LaunchError(f"eval.sets.{name}.media_root is missing: the folder that its videos lie in")
    root = Path(given).absolute()
    if not root.is_dir():
        raise LaunchError(f"eval.sets.{name}: its media root {root} is not a folder")
    return root


def label_file(recipe: Recipe, name: str) -> Path:
    """The set's `files`.

    Raises:
        LaunchError: they are missing.
    """
    path = Path(recipe.eval.sets[name].files or "")
    if not path.exists():
        raise LaunchError(f"eval.sets.{name}.files: {path} is missing")
    return path


def questions(recipe: Recipe, name: str, quarantine: Path) -> "list[Sample]":
    """The samples of a set, their videos relative to its media root.

    Args:
        quarantine: file for the records of a published file (`source`) that are not valid samples.

    Raises:
        LaunchError, LabelError, SourceError, SampleError: naming the key, or file, record and field.
    """
    from data_tools.labels import LabelFile, read_split
    from data_tools.quarantine import Quarantine
    from data_tools.sample import read_samples
    from evaluation.benchmarks import set_samples

    chosen, path = recipe.eval.sets[name], label_file(recipe, name)
    if chosen.source:
        if chosen.only:
            raise LaunchError(f"eval.sets.{name}.only: a benchmark has parts, source {chosen.source} has none")
        with whole_file(quarantine) as out:
            kept = Quarantine(out)
            labels = LabelFile(path, chosen.source, chosen.folder, root=media_root(recipe, name))
            samples = list(read_split([labels], "test", kept.add))
        if kept.count:
            console.print(f"  {name}: {kept.count} records are not valid samples: reasons in {quarantine}")
    elif chosen.benchmark:
        samples = set_samples(chosen.benchmark, path, chosen.only or None, chosen.folder)
    else:
        samples = list(read_samples(path))
    return samples[: chosen.limit]


def made_of(recipe: Recipe, name: str) -> dict[str, Any]:
    """What decides the files of a set."""
    from data_tools.sources import files_of

    chosen, path = recipe.eval.sets[name], label_file(recipe, name)
    labels, media = files_of(path), chosen.media or recipe.media
    return {
        **chosen.model_dump(include={"benchmark", "source", "only", "folder", "limit"}),
        "labels": {str(each.relative_to(path.parent)): sha256(each) for each in labels},
        "media_root": str(media_root(recipe, name)),
        "budget": vars(recipe.budget_of(media)),
        **({"images": vars(stills)} if (stills := recipe.stills_of(media)) else {}),
        "max_quarantined": recipe.data.max_quarantined,
        "links_into": recipe.data.links_into,
    }


def prepare(run: Run) -> None:
    """Make the sets of the recipe that are not made yet, or of something else."""
    for name, chosen in run.recipe.other_sets.items():
        facts, wanted = run.paths.set(name) / "set.json", made_of(run.recipe, name)
        if not facts.exists() or json.loads(facts.read_text())["made_of"] != wanted:
            prepare_one(run, name, chosen, wanted)
        counts = json.loads(facts.read_text())["counts"]
        without = f", {counts['quarantined']} without a usable video" if counts.get("quarantined") else ""
        console.print(f"  {name}: {counts['asked']} questions{without}", markup=False)


def prepare_one(run: Run, name: str, chosen: EvalSet, wanted: dict[str, Any]) -> None:
    from data_tools.prepare import Videos
    from data_tools.sets import prepare_set

    recipe, folder = run.recipe, run.paths.set(name)
    samples = questions(recipe, name, folder / "labels.quarantine.jsonl")
    media, most = chosen.media or recipe.media, recipe.data.max_quarantined
    roots, links = media_root(recipe, name), link_roots(recipe)
    videos = Videos(roots, run.store, recipe.budget_of(media), most, links, recipe.stills_of(media))
    with progress_bar() as bar:
        task = bar.add_task(f"normalising videos of {name}", total=None)
        counts = prepare_set(
            folder,
            label_file(recipe, name),
            samples,
            videos,
            clip_map(recipe),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_json(folder / "set.json", {"made_of": wanted, "counts": counts})


def check(run: Run) -> None:
    """Refuse sets whose files are missing or unknown, before anything is written."""
    from data_tools.sources import named
    from evaluation.benchmarks import benchmark_named

    require_room(run.recipe)
    for name, chosen in run.recipe.other_sets.items():
        label_file(run.recipe, name)
        media_root(run.recipe, name)
        if chosen.benchmark:
            benchmark_named(chosen.benchmark)
        if chosen.source:
            named(chosen.source)


@command("sets", check)
def main(run: Run) -> None:
    prepare(run)


if __name__ == "__main__":
    main()

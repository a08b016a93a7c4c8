"""The label files that a recipe names, what it takes of them, and how long that may be."""

from pathlib import Path

from data_tools.labels import LabelFile, Wanted
from data_tools.poses import PoseFolder
from data_tools.run_folder import SPLITS
from data_tools.tokens import Limit, tokenizer_of
from launch.engines.families import FAMILIES
from launch.errors import LaunchError
from launch.recipe import Recipe
from launch.recipe.data import SourceFile


def label_files(recipe: Recipe) -> dict[str, list[LabelFile]]:
    """The label files of each split that the recipe has.

    Raises:
        LaunchError: an unknown split, or a file that is missing.
    """
    found = {}
    for split in recipe.data.files or {}:
        if split not in SPLITS:
            raise LaunchError(f"data.files.{split}: a split is one of {', '.join(SPLITS)}")
        files = files_of(recipe, split)
        for file in files:
            if not file.path.exists():
                raise LaunchError(f"data.files.{split}: {file.path} is missing")
        if files:
            found[split] = files
    return {split: found[split] for split in SPLITS if split in found}


def _published(recipe: Recipe, file: SourceFile) -> LabelFile:
    media = recipe.data.media.get(file.source)
    return LabelFile(
        Path(file.path),
        file.source,
        file.folder,
        file.shuffle,
        one_per_video=file.source in recipe.data.one_per_video,
        budget=recipe.budget_of(media) if media else None,
        root=Path(recipe.data.media_root) if recipe.data.media_root else None,
    )


def files_of(recipe: Recipe, split: str) -> list[LabelFile]:
    """The label files of a split, there or not."""
    given = (recipe.data.files or {}).get(split)
    return [
        LabelFile(Path(file)) if isinstance(file, str) else _published(recipe, file)
        for file in (given if isinstance(given, list) else [given])
        if file is not None
    ]


def pose_folder(recipe: Recipe) -> PoseFolder | None:
    """Where the pose files of the label files' videos lie.

    Raises:
        LaunchError: the folder is missing.
    """
    given = recipe.data.poses
    if given.folder is None:
        return None
    root = Path(given.folder)
    if not root.is_dir():
        raise LaunchError(f"data.poses.folder: {root} is not a folder: give the one of your pose files, or null")
    return PoseFolder(root, given.depth, given.field_of_view, given.still)


def wanted(recipe: Recipe) -> Wanted:
    """What the recipe takes of its label files, and in which form."""
    tokenizer, images = tokenizer_of(recipe.model.path), recipe.media.given_images
    return Wanted(recipe.form, recipe.data.tasks, recipe.data.chains, limits(recipe), tokenizer, images)


def link_roots(recipe: Recipe) -> tuple[Path, ...]:
    """The folders that symbolic links in a media root may lead into: all that the recipe names."""
    sets = [chosen.media_root for chosen in recipe.eval.sets.values()]
    named = [recipe.data.media_root, recipe.data.labels, recipe.eval.root, *sets, *recipe.data.links_into]
    return tuple(Path(folder).absolute() for folder in dict.fromkeys(named) if folder)


def limits(recipe: Recipe) -> dict[str, Limit]:
    """How long the samples of each split may be, their clip included."""
    a = recipe.model.architecture
    announcement = FAMILIES[a.family].announcement if a else 0
    return {
        "sft": Limit("sft.cutoff_len", recipe.sft.cutoff_len, "chain", announcement),
        **{
            split: Limit("rl.max_prompt_length", recipe.rl.max_prompt_length, "question", announcement)
            for split in ("rl", "val")
        },
    }

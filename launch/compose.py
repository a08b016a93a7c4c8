"""Recipes composed from `recipes/`, the only module that reads them, and recipes that run folders keep."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from data_tools.files import at_home
from data_tools.prompt import Prompt
from launch.errors import LaunchError
from launch.overrides import hydra_message
from launch.recipe import RECIPES, Recipe, RecipeError
from rewards.errors import problems

if TYPE_CHECKING:
    from data_tools.rendered.dataset import RenderedSettings
_OPEN = (
    "data.files.",
    "data.labels",
    "data.media_root",
    "eval.root",
    "judge.model",
)  # of no account to plans and to chain synthesis
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_TEXTS = ("prompt", "chat_template")  # keys of texts that nobody interpolates


class OwnRecipes(SearchPathPlugin):
    """Looks for recipes in the folder that CAMREASONER_RECIPES names, behind `recipes/`, which it is laid out as.

    So an experiment of one's own lies outside the checkout, which stays clean.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in own_folders():
            search_path.append("camreasoner", f"file://{folder}")


Plugins.instance().register(OwnRecipes)


def own_folders() -> list[Path]:
    """The folder of recipes that the user keeps, where there is one.

    Raises:
        RecipeError: it is no folder.
    """
    given = os.environ.get("CAMREASONER_RECIPES")
    if not given:
        return []
    folder = Path(at_home(given)).absolute()
    if not folder.is_dir():
        raise RecipeError(f"CAMREASONER_RECIPES: {folder} is not a folder: give the one that holds experiment/")
    return [folder]


def read_recipe(config: DictConfig) -> Recipe:
    """Check a composed configuration.

    Raises:
        RecipeError: naming every wrong key, or one whose value is a secret.
    """
    _refuse_missing(_missing(config))
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"the recipe is wrong:\n  {error.full_key}: {str(error).splitlines()[0]}") from error
    texts = [(key, str(value)) for key, value in flat(content)]
    refuse_secrets(texts, os.environ)
    for key, text in texts:
        if "${" in text and not any(part in _TEXTS for part in key.split(".")):
            raise RecipeError(f"{key} holds `${{`, which engines would replace once more: leave it out")
    return _validated(_with_files(content), "the recipe is wrong")


def refuse_secrets(texts: Sequence[tuple[str, str]], variables: Mapping[str, str]) -> None:
    """Raise if one of the named texts holds the value of an environment variable that is called like a secret.

    Raises:
        RecipeError: naming the text and the variable, never the value.
    """
    secrets = {name: value for name, value in variables.items() if _SECRET.search(name) and len(value) >= 8}
    for what, text in texts:
        for name, value in secrets.items():
            if value in text:
                raise RecipeError(
                    f"{what} holds the value of ${name}: others can read run folders, pages and job descriptions. Set "
                    "the variable where the command runs (on nodes before `ray start`), and give its name only"
                )


def _missing(config: DictConfig) -> list[str]:
    """Keys that are ???; OmegaConf's own function stops at the first interpolation of one."""
    return sorted(key for key, value in flat(OmegaConf.to_container(config, resolve=False)) if value == "???")


def _with_files(content: Any) -> Any:
    """Names of files of recipes/media and recipes/prompt in sets and sources, replaced by what is in these files."""
    for name, chosen in (content["eval"].get("sets") or {}).items():
        for group in ("media", "prompt"):
            if isinstance(chosen, dict) and isinstance(chosen.get(group), str):
                chosen[group] = _file_of(group, chosen[group], f"eval.sets.{name}.{group}")
    for source, media in (content["data"].get("media") or {}).items():
        if isinstance(media, str):
            content["data"]["media"][source] = _file_of("media", media, f"data.media.{source}")
    return content


def _file_of(group: str, name: str, key: str) -> Any:
    """Content of a file of recipes/<group>, which `key` names."""
    known = group_files(group)
    if name not in known:
        raise RecipeError(f"{key}={name}: no such file of recipes/{group}; choose one of {', '.join(known)}")
    return OmegaConf.to_container(OmegaConf.load(known[name]), resolve=True)


def _validated(content: Any, what: str) -> Recipe:
    try:
        return Recipe.model_validate(content | at_home({key: content[key] for key in content if key != "prompt"}))
    except ValidationError as error:
        raise RecipeError("\n  ".join([f"{what}:", *problems(error, "recipe")])) from error


def _refuse_missing(keys: Sequence[str]) -> None:
    if keys:
        lines = "\n".join(f"  {key}=..." for key in keys)
        raise RecipeError(f"required keys are not set; give them on the command line:\n{lines}")


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """What `recipes/` and the overrides compose to, unchecked.

    Raises:
        RecipeError: an override that Hydra refuses.
    """
    GlobalHydra.instance().clear()  # a command's own Hydra may be running
    try:
        with initialize_config_dir(str(RECIPES), version_base="1.3"):
            return compose("config", list(overrides))
    except HydraException as error:
        raise RecipeError(hydra_message(error)) from error


def require_change(overrides: Sequence[str]) -> None:
    """Refuse `+ablation=` that composes to the recipe without it: its row of a table would be the plain run again.

    Raises:
        RecipeError: naming it.
    """
    rows = [one for one in overrides if one.startswith("+ablation=")]
    if not rows:
        return
    try:
        without = compose_config([one for one in overrides if one not in rows])
    except RecipeError:
        return  # the command line sets keys that the row brings, of a judge for example
    if compose_config(overrides) == without:
        raise RecipeError(
            f"{' '.join(rows)} changes nothing here: choose another row of recipes/ablation, or leave it out; keys on "
            "the command line, which win over it, may undo it"
        )


def compose_complete(overrides: Sequence[str]) -> Recipe:
    """The recipe of a command line that leaves nothing open.

    Raises:
        RecipeError: naming the key.
    """
    return read_recipe(compose_config(overrides))


def compose_recipe(overrides: Sequence[str]) -> tuple[Recipe, list[str]]:
    """A recipe to plan with, and the keys that hold a placeholder in it because only the user knows their values.

    Raises:
        RecipeError: a wrong recipe, or a missing value that a plan needs.
    """
    return read_partly(compose_config(overrides))


def read_partly(config: DictConfig) -> tuple[Recipe, list[str]]:
    """The same of a composed configuration."""
    unset = [key for key in _missing(config) if key.startswith(_OPEN)]
    for key in unset:
        OmegaConf.update(config, key, f"<{key}>")
    return read_recipe(config), unset


def read_prompt(name: str, key: str = "prompt") -> Prompt:
    """The prompt of recipes/prompt/<name>.yaml, which `key` names.

    Raises:
        RecipeError: no such file.
    """
    return Prompt.model_validate(_file_of("prompt", name, key))


def experiments() -> list[str]:
    """Names of the files in recipes/experiment, and of the user's own."""
    return list(group_files("experiment"))


def group_files(group: str) -> dict[str, Path]:
    """Name -> file of a group, the user's own among them; of two with one name that of `recipes/`, as for Hydra."""
    folders = [folder / group for folder in (*own_folders(), RECIPES)]
    found = {str(path.relative_to(each).with_suffix("")): path for each in folders for path in each.rglob("*.yaml")}
    return dict(sorted(found.items()))


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each leaf.

    Example:
        >>> dict(flat({"a": {"b": 1, "c": [2]}, "d": {}}))
        {'a.b': 1, 'a.c': [2], 'd': {}}
    """
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) where two trees differ; None for a key that one of them lacks.

    Example:
        >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
        [('a.c', 2, 3)]
    """
    before, after = dict(flat(old)), dict(flat(new))
    keys = sorted(before.keys() | after.keys())
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def rendered_settings(recipe: Recipe) -> "RenderedSettings":
    """Settings of the rendered clips, which must be those of the media budget.

    Raises:
        LaunchError: naming the key.
    """
    from data_tools.rendered.dataset import RenderedSettings

    media, side = recipe.media, recipe.budget.token_side
    if media.as_images:
        raise LaunchError("media.as_images: data.rendered draws clips that are videos")
    given = dict(recipe.data.rendered or {})
    if given.get("size") is None:
        given["size"] = isqrt(media.max_pixels) // side * side
    try:
        settings = RenderedSettings(seed=recipe.seed, **given)
    except ValidationError as error:
        raise LaunchError(f"data.rendered.{problems(error)[0]}") from error
    if settings.size % side:
        raise LaunchError(
            f"data.rendered.size={settings.size}: a multiple of {side}, the side of a visual token, or null"
        )
    if settings.fps != media.fps or settings.frames > media.max_frames or settings.size**2 > media.max_pixels:
        raise LaunchError(
            f"data.rendered draws {settings.frames} frames of {settings.size}² pixels at {settings.fps} fps, "
            f"which is not the media budget ({media.max_frames} frames, {media.max_pixels} pixels, {media.fps} fps)"
        )
    return settings

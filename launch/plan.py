"""What would run: both engines' configurations rendered and checked by the engines' own parsers; no GPU, no data.

python -m launch.plan                                           every experiment of recipes/
python -m launch.plan experiment=camreasoner rl.group_size=16   one of them, with overrides

Nothing is written. What only the user can give (paths of data) is filled by place-holders, shown as such.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from launch.errors import explain, known_errors
from launch.recipe import ROOT, Recipe, RecipeError, hydra_command, read_recipe

if TYPE_CHECKING:
    from rich.table import Table

_YOURS = ("data.files.", "data.media_root")  # a plan does not read them
# The plan is a matter of the recipe, whatever machine it is made on.
_ENGINES = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin",
    "DISABLE_VERSION_CHECK": "1",
    "LLAMAFACTORY_VERBOSITY": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}
_PATCH, _FRAMES_PER_PATCH = 28, 2  # Qwen2.5-VL: a visual token is 28 x 28 pixels (14, merged 2 x 2) of two frames
_SAMPLE = {"answer": "A", "options": ["No", "Yes"], "task": "binary"}


def experiments() -> list[str]:
    """Names of the files in recipes/experiment."""
    return sorted(path.stem for path in (ROOT / "recipes" / "experiment").glob("*.yaml"))


def compose_recipe(overrides: Sequence[str]) -> tuple[Recipe, list[str]]:
    """A recipe, and the keys that stand in it as place-holders.

    Raises:
        RecipeError: a wrong recipe, or a missing value that a plan needs.
    """
    try:
        with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
            config = compose("config", list(overrides))
    except HydraException as error:
        raise RecipeError(str(error)) from error
    yours = sorted(key for key in OmegaConf.missing_keys(config) if key.startswith(_YOURS))
    for key in yours:
        OmegaConf.update(config, key, f"<{key}>")
    return read_recipe(config), yours


def visual_tokens(recipe: Recipe) -> int:
    """Visual tokens of the longest clip that the media budget admits.

    >= those of any clip: a frame's sides are rounded to whole patches within max_pixels.
    """
    pairs = -(-recipe.media.max_frames // _FRAMES_PER_PATCH)
    return pairs * (recipe.media.max_pixels // _PATCH**2)


def check(recipe: Recipe) -> None:
    """Render both engines' configurations and have the engines check them.

    Raises:
        RecipeError, LaunchError: naming the key.
    """
    os.environ |= _ENGINES
    from launch import llamafactory, verl
    from launch.data import rendered_settings
    from launch.run import run_of

    if recipe.data.rendered is not None:
        rendered_settings(recipe)
    tokens = visual_tokens(recipe)
    limits = {"sft.cutoff_len": recipe.sft.cutoff_len, "rl.max_prompt_length": recipe.rl.max_prompt_length}
    for key, limit in limits.items():
        if tokens >= limit:
            raise RecipeError(f"{key}={limit} cannot hold the {tokens} visual tokens of a clip and its question")
    _check_rewards(recipe)
    run = run_of(recipe)
    llamafactory.check(llamafactory.render(run))
    start = f"{run.folder / 'sft'}/<epoch {recipe.rl.start_epoch}>" if recipe.rl.start_epoch else run.base_model
    verl.check(verl.render(run, start, rl_steps(recipe) or 1))


def _check_rewards(recipe: Recipe) -> None:
    """The reward takes its settings, and so does the advantage estimator."""
    from launch.verl_plugin.reward import REWARDS
    from rewards.advantages import ESTIMATORS

    reward, advantage = recipe.reward, recipe.advantage
    for key, part, known in (("reward", reward, REWARDS), ("advantage", advantage, ESTIMATORS)):
        if part.name not in known:
            raise RecipeError(f"{key}.name={part.name}: choose one of {', '.join(known)}")
    try:
        REWARDS[reward.name]("", _SAMPLE, **reward.settings)
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"reward {reward.name}: {error}") from error
    try:
        ESTIMATORS[advantage.name](**advantage.settings)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"advantage {advantage.name}: {error}") from error


def samples(recipe: Recipe, split: str) -> int | None:
    """Number of samples of a split where the recipe tells it."""
    if recipe.data.rendered is None:
        return None
    return recipe.data.rendered[split]["binary"] + recipe.data.rendered[split]["choice"]


def rl_steps(recipe: Recipe) -> int | None:
    """Optimisation steps of the RL stage where the recipe tells them."""
    prompts = samples(recipe, "rl")
    if recipe.rl.steps is None and prompts is not None:
        return prompts // recipe.rl.rollout_batch_size * recipe.rl.epochs
    return recipe.rl.steps


def lines(recipe: Recipe, yours: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What the table of an experiment shows: (what, how much)."""
    from launch.llamafactory import global_batch_size, total_steps

    sft, rl, media, cluster = recipe.sft, recipe.rl, recipe.media, recipe.cluster
    tokens, batch, chains = visual_tokens(recipe), global_batch_size(recipe), samples(recipe, "sft")
    yield "model", f"{recipe.model.path or 'tiny, built in the run folder'}, {recipe.model.dtype}"
    yield "where", f"{cluster.nodes} node(s) x {cluster.gpus_per_node}, {cluster.device}"
    for key in yours:
        yield "yours to give", f"{key}=... (a place-holder in this plan)"
    frames = f"<= {media.max_frames} frames of {media.max_pixels} pixels"
    yield "clip", f"{media.fps:g} fps, {frames}: <= {tokens} visual tokens"
    yield "room for text", f"SFT {sft.cutoff_len - tokens}, RL prompt {rl.max_prompt_length - tokens} tokens"

    factors = sft.per_device_train_batch_size, sft.gradient_accumulation_steps, cluster.gpus_per_node
    yield "SFT batch", f"{' x '.join(map(str, factors))} = {batch} chains per step"
    epochs = f"{sft.num_train_epochs} epochs of {chains or 'all'} chains"
    yield "SFT steps", epochs if chains is None else f"{total_steps(recipe, chains)} ({epochs})"
    yield "SFT checkpoints", f"{sft.num_train_epochs}, one per epoch; RL starts from epoch {rl.start_epoch}"

    rollouts, updates = rl.rollout_batch_size * rl.group_size, rl.rollout_batch_size // rl.global_batch_size
    yield "RL step", f"{rl.rollout_batch_size} prompts x {rl.group_size} = {rollouts} rollouts"
    if rl.filter.enabled:
        yield "RL filter", f"groups of equal {rl.filter.metric} are dropped, and others drawn in their place"
    small = rl.global_batch_size * rl.group_size
    yield "RL updates", f"{updates} mini-batches per step of {rl.global_batch_size} prompts, {small} rollouts"
    per_rank = small / (cluster.nodes * cluster.gpus_per_node)
    yield "RL memory", f"{rl.micro_batch_size_per_gpu} of a rank's {per_rank:g} rollouts of a mini-batch at a time"
    steps, epochs = rl_steps(recipe), f"{rl.epochs} epochs of one per {rl.rollout_batch_size} prompts"
    yield "RL steps", f"{steps}, {steps * rollouts} rollouts, {steps * updates} updates" if steps else epochs
    yield "RL checkpoints", f"every {rl.save_every} steps, the last {rl.keep_checkpoints} kept"
    yield "reward", _settings(recipe.reward.name, recipe.reward.settings)
    yield "advantage", _settings(recipe.advantage.name, recipe.advantage.settings)
    yield "checked by", "LLaMA-Factory's and verl's own parsers"


def _settings(name: str, settings: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items())])


def table(recipe: Recipe, yours: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    shown = Table(title=recipe.experiment, title_justify="left", box=box.SIMPLE, show_header=False)
    for what, how_much in lines(recipe, yours):
        shown.add_row(what, how_much)
    return shown


@hydra_command
def main(config: DictConfig) -> None:
    """Plan one experiment, or all; exit code 1 when one of them cannot run."""
    from launch.run import console

    overrides = HydraConfig.get().overrides.task
    chosen = any(override.startswith("experiment=") for override in overrides)
    wrong = False
    for experiment in [config.experiment] if chosen else experiments():
        try:
            recipe, yours = compose_recipe([*overrides, *([] if chosen else [f"experiment={experiment}"])])
            check(recipe)
            console.print(table(recipe, yours))
        except known_errors() as error:
            wrong = True
            console.print(f"[bold]{experiment}[/] cannot run")
            explain(error)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

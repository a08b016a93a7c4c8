"""What would run: both engines' configurations rendered and checked by the engines' own parsers; no GPU, no data.

python -m launch.plan                                           every experiment of recipes/
python -m launch.plan experiment=camreasoner rl.group_size=16   one of them, with overrides
python -m launch.plan experiment=camreasoner plan.against=runs/camreasoner/main     what differs from a run
python -m launch.plan experiment=camreasoner plan.save=plans/mine                   keep what is rendered

What only the user can give (paths of data) is filled by place-holders, shown as such. What certainly does not fit the
cluster is refused; what probably does not is said. Formulas and error bars: docs/plan.md.
"""

import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from launch import estimate
from launch.errors import explain, known_errors
from launch.estimate import Range, total, visual_tokens
from launch.inert import leave_out
from launch.recipe import ROOT, Recipe, RecipeError, hydra_command, read_recipe

if TYPE_CHECKING:
    from rich.table import Table

_YOURS = ("data.files.", "data.media_root", "judge.model")  # a plan does not read them
# The plan is a matter of the recipe, whatever machine it is made on.
_ENGINES = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "launch.verl_plugin",
    "DISABLE_VERSION_CHECK": "1",
    "LLAMAFACTORY_VERBOSITY": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}
# What the modules of the engines' parsers import only for training: two fifths of the time that a plan takes.
UNUSED = "torch._dynamo torch.fx.experimental.symbolic_shapes torchvision sympy mpmath scipy sklearn".split()
UNUSED += "ray tensordict transfer_queue pandas datasets peft".split()
_FILES = {"recipe": "recipe.yaml", "sft": "sft/llamafactory.yaml", "rl": "rl/verl.yaml"}  # as in a run folder


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


def check(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Render both engines' configurations, have the engines check them, and give all three by name.

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
    problems, _ = fits(recipe)
    if problems:
        raise RecipeError("this does not fit:\n" + "\n".join(f"  {problem}" for problem in problems))
    verl.check_advantage(recipe)
    run = run_of(recipe)
    sft = llamafactory.render(run)
    llamafactory.check(sft)
    start = f"{run.folder / 'sft'}/<epoch {recipe.rl.start_epoch}>" if recipe.rl.start_epoch else run.base_model
    rl = verl.render(run, start, rl_steps(recipe) or 1)
    verl.check(rl)
    return {"recipe": recipe.model_dump(mode="json"), "sft": sft, "rl": OmegaConf.to_container(rl)}


def fits(recipe: Recipe) -> tuple[list[str], list[str]]:
    """What certainly does not fit the cluster, and what probably does not; each with what to change."""
    cluster, tensor_parallel = recipe.cluster, recipe.rl.rollout.tensor_parallel_size
    problems: list[str] = []
    doubts: list[str] = []
    if recipe.model.architecture is None:
        return problems, doubts

    def judge(what: str, parts: Mapping[str, Range], have: float | None, change: str) -> None:
        need = total(parts.values())
        if have is not None and need.low > have:
            problems.append(f"{what}: at least {need.low:,.0f} GB, {have:,.0f} GB there: {change}")
        elif have is not None and need.likely > have:
            doubts.append(f"{what}: {need.show('GB')}, {have:,.0f} GB there: {change}")

    if cluster.device == "cpu":
        change = "a smaller model (model=tiny), or another cluster="
        judge("host memory", estimate.host_memory(recipe), cluster.host_memory_gb, change)
    else:
        gpu, smaller = cluster.gpu_memory_gb, "cluster.offload=true, a smaller model, shorter clips (media) and limits"
        more = f"cluster.gpus_per_node higher, {smaller}"
        if recipe.rl.start_epoch:
            judge("memory per GPU in SFT", estimate.training_memory(recipe, "sft"), gpu, more)
        more = f"cluster.nodes higher, {smaller}"
        judge("memory per GPU in RL updates", estimate.training_memory(recipe, "rl"), gpu, more)
        change = "rl.rollout_batch_size or rl.group_size lower, shorter or smaller clips (media), cluster.nodes higher"
        judge("host memory per node in RL", estimate.host_memory(recipe), cluster.host_memory_gb, change)
    if cluster.gpu_memory_gb is not None:
        change = "rl.rollout.gpu_memory_utilization lower, cluster.offload=true, cluster.nodes higher"
        judge("memory per GPU in rollouts", estimate.rollout_memory(recipe), cluster.gpu_memory_gb, change)
        rows, change = (
            estimate.concurrent_rollouts(recipe),
            "rl.rollout.tensor_parallel_size or .gpu_memory_utilization",
        )
        if rows.high < 1:
            problems.append(f"vLLM's share of a GPU cannot hold one whole rollout beside the weights: {change} higher")
        elif rows.likely < 1:
            doubts.append(f"vLLM's share of a GPU holds {rows.show('whole rollouts')}: {change} higher")
    heads = recipe.model.architecture.num_attention_heads
    if heads % tensor_parallel or cluster.gpus_per_node % tensor_parallel:
        problems.append(
            f"rl.rollout.tensor_parallel_size={tensor_parallel} must divide the model's {heads} attention heads "
            f"and cluster.gpus_per_node={cluster.gpus_per_node}"
        )
    change = "sft.num_train_epochs or rl.keep_checkpoints lower, a larger disk (cluster.disk_gb)"
    judge("disk for the run folder", estimate.disk(recipe), cluster.disk_gb, change)
    return problems, doubts


def samples(recipe: Recipe, split: str) -> int | None:
    """Number of samples of a split where the recipe tells it."""
    if recipe.data.rendered is None:
        return None
    size = recipe.data.rendered[split]
    return sum(size.get(task, 0) for task in ("binary", "choice", "grounding", "tracking"))


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
    address = f", Ray at {cluster.address}" if cluster.address else ""
    yield "where", f"{cluster.nodes} node(s) x {cluster.gpus_per_node}, {cluster.device}{address}"
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
        what = "mean" if rl.filter.mode == "mean" else "percentile of the mean"
        bounds = f"{what} {rl.filter.metric} between {rl.filter.low:g} and {rl.filter.high:g}"
        yield "RL filter", f"groups of {bounds} are kept; others are drawn, in {rl.filter.max_rounds} rounds at most"
    small = rl.global_batch_size * rl.group_size
    yield "RL updates", f"{updates} mini-batches per step of {rl.global_batch_size} prompts, {small} rollouts"
    per_rank = small / (cluster.nodes * cluster.gpus_per_node)
    yield "RL memory", f"{rl.micro_batch_size_per_gpu} of a rank's {per_rank:g} rollouts of a mini-batch at a time"
    steps, epochs = rl_steps(recipe), f"{rl.epochs} epochs of one per {rl.rollout_batch_size} prompts"
    yield "RL steps", f"{steps}, {steps * rollouts} rollouts, {steps * updates} updates" if steps else epochs
    yield "RL checkpoints", f"every {rl.save_every} steps, the last {rl.keep_checkpoints} kept"
    yield "reward", _settings(recipe.reward.name, recipe.reward.settings)
    yield "advantage", _settings(recipe.advantage.name, recipe.advantage.settings)
    if recipe.tracking:
        yield "tracking", ", ".join(recipe.tracking)
    if recipe.model.architecture is not None:
        yield from _needs(recipe)
    yield "checked by", "LLaMA-Factory's and verl's own parsers"


def _needs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Memory, disk and time: likely (from–to); formulas in docs/plan.md."""
    from launch.llamafactory import total_steps

    cluster, steps, chains = recipe.cluster, rl_steps(recipe), samples(recipe, "sft")
    if cluster.device == "cuda":
        if recipe.rl.start_epoch:
            yield "GPU in SFT", _parts(estimate.training_memory(recipe, "sft"), cluster.gpu_memory_gb)
        yield "GPU in RL updates", _parts(estimate.training_memory(recipe, "rl"), cluster.gpu_memory_gb)
    if cluster.gpu_memory_gb is not None:
        yield "GPU in rollouts", _parts(estimate.rollout_memory(recipe), cluster.gpu_memory_gb)
        yield "rollouts at once", f"{estimate.concurrent_rollouts(recipe).show('of full length')} per vLLM server"
    yield "host memory in RL", _parts(estimate.host_memory(recipe), cluster.host_memory_gb)
    yield "disk", _parts(estimate.disk(recipe), cluster.disk_gb)
    sft_seconds, seconds = estimate.sft_step_seconds(recipe), estimate.step_seconds(recipe)
    if sft_seconds and chains:
        yield "SFT time", (sft_seconds * (total_steps(recipe, chains) / 3600)).show("h")
    if seconds:
        yield "RL time", ", ".join([f"{seconds.show('s')} a step", *_hours(recipe, seconds, steps)])
    for doubt in fits(recipe)[1]:
        yield "[yellow]doubtful[/]", doubt


def _hours(recipe: Recipe, seconds: Range, steps: int | None) -> Iterator[str]:
    if steps:
        hours = seconds * (steps / 3600)
        yield hours.show("h")
        if recipe.cluster.device == "cuda":
            yield (hours * estimate.ranks(recipe, "rl")).show("GPU-hours")


def _parts(parts: Mapping[str, Range], have: float | None) -> str:
    named = ", ".join(f"{what} {size.likely:.3g}" for what, size in parts.items())
    return f"{total(parts.values()).show('GB')}{'' if have is None else f' of {have:,.0f}'}: {named}"


# ------------------------------------------------------------------ plans side by side


def save(rendered: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Write what was rendered, laid out as in a run folder."""
    for name, path in _FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(rendered[name], sort_keys=False))


def differences(rendered: Mapping[str, dict[str, Any]], folder: Path) -> list[tuple[str, str, str]]:
    """(key, there, here) for each value that differs from those of a run folder or a saved plan.

    What is not there yet (a run that has not come to its RL) is left out.

    Raises:
        RecipeError: the folder is neither.
    """
    if not (folder / _FILES["recipe"]).exists():
        raise RecipeError(f"plan.against={folder} holds no {_FILES['recipe']}: give a run folder or a saved plan")
    found = []
    for name, path in _FILES.items():
        if (folder / path).exists():
            there, here = dict(_flat(yaml.safe_load((folder / path).read_text()))), dict(_flat(rendered[name]))
            for key in sorted(there.keys() | here.keys()):
                if there.get(key) != here.get(key) and not key.startswith(("plan.", "ray_kwargs.")):
                    found.append((f"{name}: {key}", str(there.get(key, "–")), str(here.get(key, "–"))))
    return found


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _difference_table(rendered: Mapping[str, dict[str, Any]], folder: Path) -> "Table":
    from rich import box
    from rich.table import Table

    found = differences(rendered, folder)
    shown = Table("key", str(folder), "this plan", title=f"{len(found)} values differ", box=box.SIMPLE)
    for row in found:
        shown.add_row(*row)
    return shown


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

    gc.disable()  # the engines' imports make millions of objects that live to the end: an eighth of the time
    leave_out(*UNUSED)
    overrides = HydraConfig.get().overrides.task
    chosen = any(override.startswith("experiment=") for override in overrides)
    wrong = False
    for experiment in [config.experiment] if chosen else experiments():
        try:
            recipe, yours = compose_recipe([*overrides, *([] if chosen else [f"experiment={experiment}"])])
            rendered = check(recipe)
            console.print(table(recipe, yours))
            if recipe.plan.against:
                console.print(_difference_table(rendered, Path(recipe.plan.against)))
            if recipe.plan.save:
                folder = Path(recipe.plan.save) if chosen else Path(recipe.plan.save) / experiment
                save(rendered, folder)
                console.print(f"  rendered configurations: {folder}")
        except known_errors() as error:
            wrong = True
            console.print(f"[bold]{experiment}[/] cannot run")
            explain(error)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

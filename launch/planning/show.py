"""The table of a dry run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launch.engines.activity import COMPUTING
from launch.engines.families import shares_prefix
from launch.planning import memory, sizes, time
from launch.planning.fits import fits
from launch.planning.judge import judge_rows
from launch.planning.lengths import length_rows
from launch.planning.measured import applies, measured, measured_path
from launch.planning.memory import total
from launch.planning.ranges import Range
from launch.planning.sizes import global_batch_size, rl_steps, samples, total_steps, visual_tokens
from launch.planning.val import val_rows
from launch.recipe import Recipe
from launch.samples.pass_rates import expected_keep_rate, recorded

if TYPE_CHECKING:
    from rich.table import Table


def rows(recipe: Recipe, missing: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The rows of the table of an experiment: (what, how much). `missing`: required keys, filled with placeholders."""
    sft, rl, media, cluster = recipe.sft, recipe.rl, recipe.media, recipe.cluster
    tokens, batch, chains = visual_tokens(recipe), global_batch_size(recipe), samples(recipe, "sft")
    yield "model", f"{recipe.model.path or 'tiny, built in the run folder'}, {recipe.model.dtype}"
    address = f", Ray at {cluster.address}" if cluster.address else ""
    left = f", {cluster.judge_gpus} of them a judge's in RL and evaluation" if cluster.judge_gpus else ""
    yield "where", f"{cluster.nodes} node(s) x {cluster.gpus_per_node}, {cluster.device}{address}{left}"
    for key in missing:
        yield "required key not set", f"{key}=... (placeholder in this plan)"
    shown = "still images" if media.as_images else "frames"
    frames = f"<= {media.max_frames} {shown} of {media.max_pixels} pixels"
    yield "clip", f"{media.fps:g} fps, {frames}: <= {tokens} visual tokens"
    yield "room for text", f"SFT {sft.cutoff_len - tokens}, RL prompt {rl.max_prompt_length - tokens} tokens"
    yield from length_rows(recipe)

    if lora := recipe.lora:
        what = "all linear layers" if lora.targets == "all" else ", ".join(lora.targets)
        trained = f", {sizes.trained_parameters(recipe, 'rl'):,} parameters" if recipe.model.architecture else ""
        yield "LoRA", f"rank {lora.rank}, alpha {lora.alpha}, {what} of the language model{trained}"
    factors = sft.per_device_train_batch_size, sft.gradient_accumulation_steps, sizes.ranks(recipe, "sft")
    over = f", over {cluster.sft_nodes} nodes" if cluster.sft_nodes > 1 else ""
    yield "SFT batch", f"{' x '.join(map(str, factors))} = {batch} chains per step{over}"
    epochs = f"{sft.num_train_epochs} epochs of {chains or 'all'} chains"
    yield "SFT steps", epochs if chains is None else f"{total_steps(recipe, chains)} ({epochs})"
    yield "SFT checkpoints", f"{sft.num_train_epochs}, one per epoch; RL starts from epoch {rl.start_epoch}"

    yield from _prompts(recipe)
    rollouts, updates = rl.rollout_batch_size * rl.group_size, rl.rollout_batch_size // rl.global_batch_size
    yield "RL step", f"{rl.rollout_batch_size} prompts x {rl.group_size} = {rollouts} rollouts"
    yield from _filter(recipe)
    small = rl.global_batch_size * rl.group_size
    yield "RL updates", f"{updates} mini-batches per step of {rl.global_batch_size} prompts, {small} rollouts"
    per_rank = small / sizes.ranks(recipe, "rl")
    at_once = (
        "those of a prompt as one sequence"
        if shares_prefix(rl.shared_prefix, recipe.model.architecture)
        else "row by row"
    )
    rows = f"{rl.micro_batch_tokens} tokens" if rl.micro_batch_tokens else f"{rl.micro_batch_size_per_gpu}"
    yield (
        "RL memory",
        f"{rows} of a rank's {per_rank:g} rollouts of a mini-batch at a time, {at_once}",
    )
    steps, epochs = rl_steps(recipe), f"{rl.epochs} epochs of one per {rl.rollout_batch_size} prompts"
    yield "RL steps", f"{steps}, {steps * rollouts} rollouts, {steps * updates} updates" if steps else epochs
    best = ", and the best" if rl.held_out.every else ""
    yield (
        "RL checkpoints",
        f"every {rl.save_every} steps, the last {rl.keep_checkpoints}{best} kept; merged: {rl.checkpoint}",
    )
    yield from val_rows(recipe)
    yield "reward", _settings(recipe.reward.name, recipe.reward.settings)
    yield "advantage", _settings(recipe.advantage.name, recipe.advantage.settings)
    yield "loss", _settings(recipe.loss.name, recipe.loss.model_dump(exclude={"name"}, exclude_none=True))
    yield from judge_rows(recipe)
    if recipe.tracking:
        yield "tracking", ", ".join(recipe.tracking)
    if recipe.model.architecture is not None:
        yield from _needs(recipe)
    yield "checked by", "LLaMA-Factory's and verl's own parsers"


def _prompts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """How hard the prompts are, where that was recorded or is asked for, and their twins."""
    if told := recorded(recipe):
        counted = ", ".join(f"{count} {verdict}" for verdict, count in told["counts"].items())
        yield "RL difficulty", f"{told['questions']} questions by {told['model']}: {counted}"
    if recipe.rl.by_difficulty:
        yield "RL prompts", f"those kept, {recipe.difficulty.order}" if told else "known after make difficulty"
    if temporal := recipe.rl.twins.temporal:
        paid = f"shuffled, bonus {temporal['bonus']:g} from a ratio of {temporal['ratio']:g} on"
        yield "RL contrast", f"{paid}: twice the prompts are answered"
    elif turns := recipe.rl.twins.turns:
        weight = f"relation weight {recipe.rl.twins.relation_weight:g}" + ", balanced" * recipe.rl.twins.balanced
        yield "RL twins", f"{' or '.join(turns)}, {weight}: up to twice the prompts, and steps of an epoch"


def _filter(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What the online filter keeps, and how often a step then draws its prompts."""
    chosen = recipe.rl.filter
    if not chosen.enabled:
        return
    what = "mean" if chosen.mode == "mean" else "percentile of the mean"
    bounds = f"{what} {chosen.metric} between {chosen.low:g} and {chosen.high:g}"
    yield "RL filter", f"groups of {bounds} are kept; others are drawn, in {chosen.max_rounds} rounds at most"
    drawn, known = time.rounds(recipe).show("rounds"), expected_keep_rate(recipe)
    by = f"{100 * known[0]:.0f} % of the groups kept, by the pass rates" if known else "assumed keep rate"
    yield "", f"{drawn} of prompts a step: {by} (filter/keep_rate)"


def _needs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Memory, disk and time: likely (from–to); formulas in docs/plan.md."""
    cluster, steps, chains = recipe.cluster, rl_steps(recipe), samples(recipe, "sft")
    if cluster.device == "cuda":
        if recipe.rl.start_epoch:
            yield "GPU in SFT", _parts(memory.training_memory(recipe, "sft"), cluster.gpu_memory_gb)
        yield "GPU in RL updates", _parts(memory.training_memory(recipe, "rl"), cluster.gpu_memory_gb)
    if cluster.gpu_memory_gb is not None:
        yield "GPU in rollouts", _parts(memory.rollout_memory(recipe), cluster.gpu_memory_gb)
        yield "rollouts at once", f"{memory.concurrent_rollouts(recipe).show('of full length')} per vLLM server"
    yield "host memory in RL", _parts(memory.host_memory(recipe), cluster.host_memory_gb)
    yield "disk", _parts(memory.disk(recipe), cluster.disk_gb)
    sft_seconds, seconds = time.sft_step_seconds(recipe), time.step_seconds(recipe)
    if sft_seconds and chains:
        yield "SFT time", time.hours(recipe, sft_seconds * total_steps(recipe, chains)).show("h")
    if seconds:
        yield "RL time", ", ".join([f"{seconds.show('s')} a step", *_hours(recipe, seconds, steps)])
        parts = time.step_parts(recipe) or {}
        if len(parts) > 1:
            yield "", "s of a step: " + ", ".join(f"{what} {part.likely:.3g}" for what, part in parts.items())
        yield "rates", _source(recipe)
    limit = cluster.time_limit_minutes
    yield "time limit", f"{limit:g} minutes idle, {COMPUTING * limit:g} computing, without output or progress"
    for doubt in fits(recipe)[1]:
        yield "[yellow]doubtful[/]", doubt


def _hours(recipe: Recipe, seconds: Range, steps: int | None) -> Iterator[str]:
    if steps:
        hours = time.hours(recipe, seconds * steps)
        yield hours.show("h")
        if recipe.cluster.device == "cuda":
            yield (hours * sizes.ranks(recipe, "rl")).show("GPU-hours")


def _source(recipe: Recipe) -> str:
    found = measured(recipe)
    if found is None:
        return "assumed or published (launch/planning/calibration.yaml); make calibrate measures them"
    if applies(found, recipe):
        busy = f" ({found.busy})" if found.busy else ""
        return f"measured on {found.device}, {found.date}{busy}: {measured_path(recipe)}"
    of = f"{measured_path(recipe)} is of {found.device} ({found.kind})"
    return f"assumed or published (launch/planning/calibration.yaml); {of}, not of such a machine"


def _parts(parts: Mapping[str, Range], have: float | None) -> str:
    named = ", ".join(f"{what} {size.likely:.3g}" for what, size in parts.items())
    return f"{total(parts.values()).show('GB')}{'' if have is None else f' of {have:,.0f}'}: {named}"


def _settings(name: str, settings: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items())])


def plan_table(recipe: Recipe, missing: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    shown = Table(title=recipe.experiment, title_justify="left", box=box.SIMPLE, show_header=False)
    for what, how_much in rows(recipe, missing):
        shown.add_row(what, how_much)
    return shown

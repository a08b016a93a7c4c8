"""The stages of a run: one table, read by everything that has to know them.

A new stage is a row here, a command `launch/<name>.py`, its settings in `launch/recipe/` and `recipes/config.yaml`, and
a target of the Makefile; where it leaves a model to evaluate, its name in `evaluation/runs.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from data_tools.run_folder import OWN

if TYPE_CHECKING:
    from launch.recipe import Recipe
    from launch.run import Run

# A higher value only takes in more: a stage that began with a lower one may go on.
LIMITS = ("data.max_quarantined", "sft.cutoff_len", "rl.max_prompt_length")
# A higher value trains on from the last checkpoint, also where the stage is done.
LENGTHS = ("sft.num_train_epochs", "rl.steps", "rl.epochs")
# GPUs among which checkpoints are divided; other GPUs may use what a stage that is done has made.
SHAPE = "cluster.ranks"


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        output: folder of what it makes, in the run's; a property of `RunFolder` where others read it.
        needs: stages whose results it reads; `needs()` adds those that depend on the recipe.
        settings: keys of the recipe that decide its result, besides the seed and the stages before it.
        held_later: those of them that a later stage holds in any case, so that other values are never refused here.
        work: glob below the output: work that an interrupted stage resumes from, and that a changed recipe would lose.
        nodes: key of `cluster`: on how many nodes it takes the GPUs; None: it takes none.
        model, weights: the name under which it leaves a model to evaluate, and the folder or hub id of that model.
        applies: False for a recipe that does without this stage.
        recorded: whether it counts as done once it is recorded; one that is not runs every time it is asked for.
        completes: whether it may run again with other settings or input: it keeps what is still valid of its output,
            and makes the rest.
    """

    name: str
    output: str
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    held_later: tuple[str, ...] = ()
    work: str | None = None
    nodes: Literal["sft_nodes", "nodes"] | None = None
    model: str | None = None
    weights: "Callable[[Run], str] | None" = None
    applies: "Callable[[Recipe], bool]" = lambda recipe: True
    recorded: bool = True
    completes: bool = False


_ROWS = (
    Stage(
        "data",
        output="data",
        settings=("data", "media", "prompt", "schemas", "sft.cutoff_len", "rl.max_prompt_length"),
        held_later=("sft.cutoff_len", "rl.max_prompt_length"),
    ),
    Stage(
        "sets",
        output="sets",
        settings=("eval.sets", "media", "data.media_root", "data.max_quarantined"),
        applies=lambda recipe: recipe.other_sets != {},
        completes=True,
    ),
    Stage(
        "model",
        output="model",
        needs=("data",),
        settings=("model", "media"),
        model="base",
        weights=lambda run: run.base_model,
    ),
    Stage(
        "sft",
        output="sft",
        needs=("data", "model"),
        settings=("sft", "lora", "model", "cluster.device", SHAPE),
        work="checkpoint-*",
        nodes="sft_nodes",
        model="sft",
        weights=lambda run: run.sft_model,
        applies=lambda recipe: recipe.rl.start_epoch > 0 or "sft" in recipe.models.values(),
    ),
    Stage(
        "rl",
        output="rl",
        needs=("data", "model"),
        settings=("rl", "lora", "reward", "judge", "advantage", "loss", "cluster.device", SHAPE),
        work="checkpoints/*",
        nodes="nodes",
    ),
    Stage(
        "merge",
        output="merged",
        needs=("rl",),
        settings=("rl.checkpoint",),
        model="rl",
        weights=lambda run: str(run.merged),
        completes=True,
    ),
    Stage(
        "evaluate",
        output="eval",
        needs=("sets",),
        settings=("eval", "vllm"),
        work="*/*/*.jsonl",
        nodes="nodes",
        completes=True,
    ),
    Stage("report", output="report", recorded=False),
)
STAGES = {stage.name: stage for stage in _ROWS}
RECORDED = tuple(stage.name for stage in _ROWS if stage.recorded)


def nodes(name: str, recipe: "Recipe") -> int:
    """How many nodes a stage computes on."""
    key = STAGES[name].nodes
    count: int = getattr(recipe.cluster, key) if key else 1
    return count


def joins(name: str, recipe: "Recipe") -> bool:
    """Whether a stage joins the Ray cluster: one that may take all of it, and SFT on several nodes."""
    return STAGES[name].nodes == "nodes" or nodes(name, recipe) > 1


def needs(name: str, recipe: "Recipe") -> list[str]:
    """Stages that must be done before this one; for evaluation, those that make its models among them."""
    wanted = {earlier for earlier in STAGES[name].needs if STAGES[earlier].applies(recipe)}
    if name == "rl" and recipe.rl.start_epoch:
        wanted |= {"sft"}
    if name == "evaluate":
        wanted |= {stage.name for stage in _ROWS if stage.model in recipe.models.values()}
        wanted |= {"data"} if OWN in recipe.eval.sets else set()
    return [earlier for earlier in STAGES if earlier in wanted]


def all_needs(name: str, recipe: "Recipe") -> list[str]:
    """The same with the stages that those need in turn, in the order in which they run."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = set(needs(waiting.pop(), recipe)) - found
        found |= new
        waiting += new
    return [earlier for earlier in STAGES if earlier in found]


def shared_needs(names: Sequence[str], recipe: "Recipe") -> list[str]:
    """What several stages need that is not among them and builds on none of them."""
    found = {earlier for name in names for earlier in all_needs(name, recipe)} - set(names)
    return [earlier for earlier in STAGES if earlier in found and not set(all_needs(earlier, recipe)) & set(names)]

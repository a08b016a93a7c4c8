"""Parameters, visual tokens, batches and steps of a recipe."""

from math import ceil
from typing import get_args

from launch.engines.families import FAMILIES, FRAMES_PER_PATCH, MERGE, Architecture, Linear
from launch.recipe import Recipe, RecipeError
from launch.recipe.evaluation import Media
from launch.samples.pass_rates import trained_on
from launch.stages import nodes

# Key of a rendered split's size -> the task of those questions.
RENDERED_TASKS = {"binary": "binary", "choice": "choice", "grounding": "temporal_grounding", "tracking": "tracking"}


def architecture_of(recipe: Recipe) -> Architecture:
    """The sizes of a recipe's model.

    Raises:
        RecipeError: the recipe names none.
    """
    if recipe.model.architecture is None:
        raise RecipeError("model.architecture is not set: a plan counts with the sizes in the model's config.json")
    return recipe.model.architecture


def trained_parameters(recipe: Recipe, stage: str) -> int:
    """Parameters that `sft` or `rl` trains, adapters or weights; a frozen tower has neither gradients nor moments."""
    a, part, lora = architecture_of(recipe), getattr(recipe, stage), recipe.lora
    if lora:
        return a.adapter_parameters(lora.rank, get_args(Linear) if lora.targets == "all" else lora.targets)
    return a.language_parameters() if part.freeze_vision_tower else a.parameters()


def patches(recipe: Recipe, media: Media | None = None) -> int:
    """Patches of the longest clip, or the most images, that the budget admits (>= those of any sample).

    Args:
        media: the budget; None: that of training with the longest clip.
    """
    side = recipe.model.architecture.vision.patch_size if recipe.model.architecture else 14
    token = (side * MERGE) ** 2
    return max(
        max(
            (one.max_frames if one.as_images else ceil(one.max_frames / FRAMES_PER_PATCH)) * (one.max_pixels // token),
            one.images.most * (one.images.max_pixels // token) if one.images else 0,
        )
        * MERGE**2
        for one in ([media] if media else recipe.trained_media)
    )


def visual_tokens(recipe: Recipe, media: Media | None = None) -> int:
    """Visual tokens of the longest clip, with the texts by which some families announce each pair of frames.

    Of the most images, where those are more.

    Args:
        media: the budget; None: that of training with the longest clip.
    """
    a = recipe.model.architecture
    announcement = FAMILIES[a.family].announcement if a else 0
    return max(
        patches(recipe, one) // MERGE**2
        + (0 if one.as_images else ceil(one.max_frames / FRAMES_PER_PATCH) * announcement)
        for one in ([media] if media else recipe.trained_media)
    )


def require_room(recipe: Recipe) -> None:
    """Raise RecipeError where the longest clip of an evaluation set leaves no room for its question in the prompt."""
    for name, chosen in recipe.eval.sets.items():
        tokens, room = visual_tokens(recipe, chosen.media or recipe.media), recipe.vllm.max_prompt_length
        if tokens >= room:
            raise RecipeError(
                f"eval.sets.{name}: a clip, or the images, of its media budget have up to {tokens} visual tokens, "
                f"which leaves no room for the question in vllm.max_prompt_length={room}: raise that, or lower the "
                "set's media"
            )


def ranks(recipe: Recipe, stage: str) -> int:
    """GPUs that share the weights; RL leaves some to a judge, SFT takes `cluster.sft_nodes`, and merge one node."""
    cluster = recipe.cluster
    return nodes(stage, recipe) * (cluster.policy_gpus if stage == "rl" else cluster.gpus_per_node)


def global_batch_size(recipe: Recipe) -> int:
    """Chains per optimizer step."""
    sft = recipe.sft
    return sft.per_device_train_batch_size * sft.gradient_accumulation_steps * ranks(recipe, "sft")


def total_steps(recipe: Recipe, samples: int) -> int:
    """Optimizer steps of all epochs over `samples` chains."""
    return ceil(samples / global_batch_size(recipe)) * recipe.sft.num_train_epochs


def samples(recipe: Recipe, split: str) -> int | None:
    """Number of samples of a split if the recipe, or what was recorded of it, fixes it."""
    if split == "rl" and recipe.rl.by_difficulty and (known := trained_on(recipe)):
        return len(known)
    if recipe.data.rendered is None:
        return None
    size: dict[str, int] = recipe.data.rendered.get(split) or {}
    tasks = recipe.data.tasks.get(split)
    return sum(size.get(key, 0) for key, task in RENDERED_TASKS.items() if tasks is None or task in tasks)


def rl_steps(recipe: Recipe) -> int | None:
    """Optimisation steps of the RL stage if the recipe fixes them."""
    prompts = samples(recipe, "rl")
    if recipe.rl.steps is None and prompts is not None:
        return prompts // recipe.rl.rollout_batch_size * recipe.rl.epochs
    return recipe.rl.steps

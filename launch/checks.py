"""Checks of a recipe's reward, judge and advantage."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from launch.planning import sizes
from launch.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from data_tools.sample import Sample

_SAMPLE = {"id": "sample", "answer": "A", "options": ["No", "Yes"], "task": "binary", "extras": {"asked": "static"}}


def check_rewards(recipe: Recipe, judged: bool = True) -> set[str]:
    """Check that the reward and the judge take their settings, and that the filter's metric exists; needs no torch.

    Args:
        judged: False leaves out the judge, whose key only the machines that ask it have.

    Returns:
        names of the reward's components.

    Raises:
        RewardError, JudgeError, RecipeError: naming the setting.
    """
    import asyncio

    from rewards.judges.build import build
    from rewards.scorer import Scorer

    metric = recipe.rl.filter.metric
    scorer = Scorer(recipe.reward.model_dump(), build(recipe.judge.model_dump() if judged else {"name": "rules"}))
    try:
        components = asyncio.run(scorer.score("", _SAMPLE, {"perception": 0, "reasoning": 0}))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"reward={recipe.reward.name}: {error}") from error
    if recipe.loss.overlong:
        components["overlong"] = 0.0
    if recipe.rl.twins.relation_weight:
        components["relation"] = 0.0
    if recipe.rl.twins.temporal:
        if "accuracy" not in components:
            raise RecipeError(f"rl.twins.temporal_bonus compares accuracies: the reward {recipe.reward.name} has none")
        components["temporal"] = 0.0
    if recipe.rl.filter.enabled and metric not in components:
        raise RecipeError(f"rl.filter.metric={metric}: the reward {recipe.reward.name} has {', '.join(components)}")
    return set(components)


def require_motions(recipe: Recipe, samples: "Iterable[Sample]") -> None:
    """Refuse a reward of the observation where no RL sample knows what its camera does.

    Args:
        samples: of RL; read up to the first one that knows.

    Raises:
        RecipeError: naming the keys.
    """
    weight = recipe.reward.settings.get("fidelity_weight", 0)
    if weight and not any(sample.extras.get("motion") for sample in samples):
        raise RecipeError(
            f"reward.fidelity_weight={weight:g} pays observations of what the camera does, which no RL sample knows: "
            "give pose files (data.poses.folder, docs/rewards.md) or extras.motion in the samples, or the weight 0"
        )


def check_motions(recipe: Recipe) -> None:
    """The same before data is made, where the label files are there: a sample whose video has a pose file will know.

    Raises:
        RecipeError: naming the keys. SampleError, SourceError: a bad label file.
    """
    from data_tools.pose_files import pose_files

    samples, folder = _rl_samples(recipe), recipe.data.poses.folder
    if not recipe.reward.settings.get("fidelity_weight") or samples is None:
        return
    videos: dict[str, None] = {}
    for sample in samples:
        if sample.extras.get("motion"):
            return
        videos.update(dict.fromkeys(sample.media))
    if not (folder and pose_files(Path(folder), videos)):
        require_motions(recipe, [])


def _rl_samples(recipe: Recipe) -> "Iterator[Sample] | None":
    """What the recipe takes of its label files for RL; None where they are not there."""
    from data_tools.labels import read_split
    from launch.samples.labels import files_of, wanted

    files, takes = files_of(recipe, "rl"), wanted(recipe).takes
    if not files or not all(file.path.exists() for file in files):
        return None
    return (sample for sample in read_split(files, "rl") if takes("rl", sample))


def require_batch(recipe: Recipe, prompts: int) -> None:
    """Refuse fewer RL prompts than a step takes.

    Raises:
        RecipeError: naming the key.
    """
    if prompts < recipe.rl.rollout_batch_size:
        raise RecipeError(
            f"{prompts} RL prompts do not fill rl.rollout_batch_size={recipe.rl.rollout_batch_size}: give more, or "
            "lower it, and with it rl.global_batch_size, which divides it"
        )


def check_counts(recipe: Recipe) -> None:
    """The same before data is made, where RL's prompts are rendered or their label files are there.

    Raises:
        RecipeError: naming the key. SampleError, SourceError: a bad label file.
    """
    if "rl" not in recipe.models.values():
        return
    known = sizes.samples(recipe, "rl")
    if known is None and (found := _rl_samples(recipe)) is not None:
        known = sum(1 for _ in islice(found, recipe.rl.rollout_batch_size))
    if known is not None:
        require_batch(recipe, known)


def check_advantage(recipe: Recipe) -> None:
    """Check that the advantage estimator takes its settings, and that the reward has what it needs.

    Raises:
        RewardError, JudgeError, RecipeError: naming the setting.
    """
    from rewards.advantages import build

    components, name = check_rewards(recipe), recipe.advantage.name
    estimator = build(recipe.advantage.model_dump())
    if not estimator.reads:
        return
    if missing := estimator.reads - components:
        hint = "rewards per segment, reward=videop2r" if name == "pa_grpo" else "advantage.weights of what there is"
        raise RecipeError(f"advantage {name} needs {hint}: {recipe.reward.name} has no {', '.join(sorted(missing))}")
    if recipe.loss.overlong and "overlong" not in estimator.reads:
        hint = "advantage.weights.overlong" if name == "gdpo" else "advantage=grpo"
        raise RecipeError(f"loss.overlong changes the score, which advantage {name} never reads: give {hint}")
    for key, part in (("relation_weight", "relation"), ("temporal_bonus", "temporal")):
        if getattr(recipe.rl.twins, key) and part not in estimator.reads:
            hint = f"advantage.weights.{part}" if name == "gdpo" else "advantage=grpo"
            raise RecipeError(f"rl.twins.{key}: advantage {name} never reads the score: give {hint}")
    if name == "pa_grpo":
        _check_segments(recipe)


def _check_segments(recipe: Recipe) -> None:
    """What PA-GRPO asks of reward and loss."""
    if recipe.reward.settings.get("score", "both") != "both":
        raise RecipeError("advantage pa_grpo uses both rewards, never reward.score: give advantage=grpo")
    if recipe.advantage.settings.get("weights", "segments") == "segments" and (
        recipe.loss.aggregation != "response_mean" and recipe.advantage.settings.get("separate", True)
    ):
        raise RecipeError(
            "advantage.weights=segments makes each segment one term of a mean over a response's tokens (equation 7): "
            f"loss.aggregation=response_mean, not {recipe.loss.aggregation}, or advantage.weights=tokens"
        )

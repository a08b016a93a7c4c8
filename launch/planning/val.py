"""What the val split costs that RL asks while it trains."""

from collections.abc import Iterator
from math import ceil

from launch.planning.ranges import Range
from launch.planning.sizes import rl_steps, samples
from launch.planning.time import step_seconds
from launch.recipe import Recipe

GENERATES = Range(0.05, 0.3, 0.7)  # of a step's time, in which its rollouts are generated; assumed


def evaluations(recipe: Recipe) -> int | None:
    """How often it is asked, first before any step; None where the steps are not known."""
    steps, every = rl_steps(recipe), recipe.rl.held_out.every
    return 1 + ceil(steps / every) if steps and every else None


def answer_seconds(recipe: Recipe, questions: int) -> Range | None:
    """Wall seconds in which RL's rollout servers answer so many questions once."""
    step, rollouts = step_seconds(recipe), recipe.rl.rollout_batch_size * recipe.rl.group_size
    return None if step is None else step * GENERATES * (questions / rollouts)


def val_rows(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Rows of the plan; none where it is not asked."""
    held_out, asked, times = recipe.rl.held_out, samples(recipe, "val"), evaluations(recipe)
    if not held_out.every:
        return
    yield "RL val split", f"{asked or 'all'} questions, {times or '?'} times, by {held_out.metric}"
    seconds = answer_seconds(recipe, asked) if asked and recipe.model.architecture else None
    if times and seconds:
        yield "val split's time", f"{seconds.show('s')} each time, {(seconds * (times / 3600)).show('h')}"

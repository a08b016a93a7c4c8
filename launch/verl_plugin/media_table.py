"""Rollouts with their clips as a table of Weights & Biases, where the recipe's `tracking` names it."""

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data_tools.media.child import clip_path
from data_tools.sample import Sample
from evaluation.report.clips import preview_of
from evaluation.rollouts.records import Rollout
from rewards.errors import UserError

PROMPTS = 8  # in a table: those whose rewards are most apart
COLUMNS = ("step", "id", "clip", "question", "right", "response", "reward", "advantage", "malformed", "mismatch")


def log_rollouts(wandb: Any, rollouts: Sequence[Rollout], root: Path, step: int) -> None:
    """Log a table of a step's rollouts under the name `rollouts`.

    Args:
        wandb: the module, with a run.
        rollouts: the answers to a prompt follow each other.
        root: what the samples' clips are relative to.
    """
    groups = [list(group) for _, group in groupby(rollouts, key=lambda rollout: rollout.group)]
    groups.sort(key=lambda group: min(each.score for each in group) - max(each.score for each in group))
    names = sorted({name for each in rollouts for name in each.components} - {"score"})
    table = wandb.Table(columns=[*COLUMNS, *names])
    with TemporaryDirectory() as folder:  # wandb copies the clips as they are logged
        for number, group in enumerate(groups[:PROMPTS]):
            sample = Sample.model_validate(group[0].sample)
            shown = _shown(wandb, root, sample, Path(folder, str(number)))
            for each in group:
                row = (step, each.id, shown, sample.question, sample.gold, each.response, each.score, each.advantage)
                table.add_data(*row, each.malformed, each.mismatch, *(each.components.get(name) for name in names))
        wandb.log({"rollouts": table}, step=step)


def _shown(wandb: Any, root: Path, sample: Sample, target: Path) -> Any:
    """The clip, or the first image, as wandb takes it; None, with a warning, where it cannot be shown."""
    name = sample.media[0]
    try:
        content = preview_of(clip_path(root, name, links_into=[root / "clips"]))
    except UserError as error:
        logging.getLogger(__name__).warning("no clip in the table of rollouts: %s", error)
        return None
    path = target.with_suffix(".mp4" if sample.video else ".jpg")
    path.write_bytes(content)
    return wandb.Video(str(path), format="mp4") if sample.video else wandb.Image(str(path))

"""Rollouts with their clips as a table of Weights & Biases or trackio, where the recipe's `tracking` names it."""

import logging
import re
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


def log_rollouts(tracker: Any, rollouts: Sequence[Rollout], root: Path, step: int) -> None:
    """Log a table of a step's rollouts under the name `rollouts`.

    Args:
        tracker: the module `wandb` or `trackio`, with a run.
        rollouts: the answers to a prompt follow each other.
        root: what the samples' clips are relative to.
    """
    groups = [list(group) for _, group in groupby(rollouts, key=lambda rollout: rollout.group)]
    groups.sort(key=lambda group: min(each.score for each in group) - max(each.score for each in group))
    names = sorted({name for each in rollouts for name in each.components} - {"score"})
    text = _literal if tracker.__name__ == "trackio" else str
    rows = []
    with TemporaryDirectory() as folder:  # clips are copied as they are logged
        for number, group in enumerate(groups[:PROMPTS]):
            sample = Sample.model_validate(group[0].sample)
            shown = _shown(tracker, root, sample, Path(folder, str(number)))
            for each in group:
                texts = map(text, (sample.question, sample.gold, each.response))
                numbers = each.score, each.advantage, each.malformed, each.mismatch
                row = step, text(each.id), shown, *texts, *numbers, *(each.components.get(name) for name in names)
                rows.append(list(row))
        tracker.log({"rollouts": tracker.Table(columns=[*COLUMNS, *names], data=rows)}, step=step)


def _literal(text: str) -> str:
    """Text that trackio, which reads Markdown, shows as it is: nothing of a model's makes a link, an image or HTML.

    Example:
        >>> _literal("![x](y) yes")
        '&#33;&#91;x&#93;&#40;y&#41; yes'
    """
    return re.sub(r"[^\w\s.,?]", lambda sign: f"&#{ord(sign[0])};", str(text))


def _shown(tracker: Any, root: Path, sample: Sample, target: Path) -> Any:
    """The clip, or the first image, as a tracker takes it; None, with a warning, where it cannot be shown."""
    name = sample.media[0]
    try:
        content = preview_of(clip_path(root, name, links_into=[root / "clips"]))
    except UserError as error:
        logging.getLogger(__name__).warning("no clip in the table of rollouts: %s", error)
        return None
    path = target.with_suffix(".mp4" if sample.video else ".jpg")
    path.write_bytes(content)
    return tracker.Video(str(path), format="mp4") if sample.video else tracker.Image(str(path))

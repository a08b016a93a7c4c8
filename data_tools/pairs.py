"""Questions and their twins for RL: both branches of a pair, next to each other in the order of training.

The contrast of T-GRPO (arXiv 2503.21776) comes the same way: the same question about the same frames, shuffled.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from data_tools.controls import Labels, Turn, UnmappedError, labels_of, mapped_text, twin
from data_tools.media.normalise import turn_clip
from data_tools.sample import Sample

TrainedTurn = Literal[Turn, "shuffled"]


def paired(
    samples: Sequence[Sample], turns: Sequence[TrainedTurn], seed: int, shuffle: bool, balanced: bool = False
) -> tuple[list[Sample], list[str]]:
    """Each question followed by its twin, and for those without one why; these follow two by two, without an odd one.

    A question that more than one turn fits is turned one way, drawn by its id and the seed.

    Args:
        shuffle: False keeps the order of the questions.
        balanced: of the yes/no pairs with one answer for both branches leave out so many that as many of them ask for
            Yes as for No. In pairs whose answer changes each is right once.
    """
    labels, units, alone, reasons = labels_of(samples), list[list[Sample]](), list[Sample](), list[str]()
    for sample in samples:
        found, why = _branches(sample, turns, labels)
        if found:
            units.append(found[_drawn(sample, seed) % len(found)])
        else:
            alone.append(sample)
            reasons.append(why)
    if balanced:
        kept = _balanced(units, seed)
        reasons += ["left out, for as many answers Yes as No"] * (len(units) - len(kept))
        units = kept
    units += [[one, other] for one, other in zip(alone[::2], alone[1::2])]
    if not shuffle:
        places = {sample.id: place for place, sample in enumerate(samples)}
        units.sort(key=lambda unit: places[unit[0].id])
    order = np.random.default_rng(seed).permutation(len(units)) if shuffle else range(len(units))
    return [sample for place in order for sample in units[place]], reasons


def _drawn(sample: Sample, seed: int) -> int:
    """A number of a question's own, the same in whatever company it is."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample.id}".encode()).digest()[:4], "big")


def _balanced(units: list[list[Sample]], seed: int) -> list[list[Sample]]:
    """All units but surplus ones of a yes/no answer that stays, drawn by id and seed."""
    staying: dict[str, list[str]] = {"yes": [], "no": []}
    for one, other in sorted(units, key=lambda unit: _drawn(unit[0], seed)):
        if one.task == "binary" and one.answer == other.answer:
            staying[one.gold.casefold()].append(one.id)
    keep = min(map(len, staying.values()))
    surplus = {name for names in staying.values() for name in names[keep:]}
    return [unit for unit in units if unit[0].id not in surplus]


def _branches(sample: Sample, turns: Sequence[TrainedTurn], labels: Labels) -> tuple[list[list[Sample]], str]:
    """A question with each twin that it can have, or why it has none."""
    found, why = [], ""
    for turn in turns:
        try:
            if sample.images:
                raise UnmappedError("images are not turned for training")
            other = sample if turn == "shuffled" else twin(sample, turn, labels)
            facts = {} if turn == "shuffled" else {"counterpart": _counterparts(sample, other, turn)}
        except UnmappedError as error:
            why = str(error)
            continue
        video = str(PurePosixPath(turn, sample.video or ""))
        extras = other.extras | facts | {"turn": turn, "twin_of": sample.id}
        renamed = {"id": f"{sample.id}~{turn}", "video": f"twins/{video}", "extras": extras}
        found.append([sample.model_copy(update={"extras": sample.extras | facts}), other.model_copy(update=renamed)])
    return found, why


def _counterparts(sample: Sample, other: Sample, turn: Turn) -> list[int]:
    """Of each option, the index of the one that is right of the turned clip where it is right of the clip."""
    if sample.task == "binary":
        return [0, 1] if sample.answer == other.answer else [1, 0]
    return [sample.options.index(mapped_text(option, turn, question=False)) for option in sample.options]


def write_turned(media_root: Path, sample: Sample) -> None:
    """Write the clip of a twin below the media root, unless it is there."""
    turn: TrainedTurn = sample.extras["turn"]
    target = media_root / (sample.video or "")
    source = media_root / PurePosixPath(sample.video or "").relative_to(f"twins/{turn}")
    if not target.exists():
        turn_clip(source, target, turn)

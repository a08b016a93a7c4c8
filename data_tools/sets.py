"""Prepare an evaluation set: its samples with clips in the set's own media budget, apart from the training data."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_tools.media.cache import Progress
from data_tools.media.parallel import Map
from data_tools.media.store import write_manifest
from data_tools.prepare import PrepareError, Videos, make_clips, with_clips
from data_tools.quarantine import Quarantine
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples, write_samples


def prepare_set(
    folder: Path, labels: Path, samples: Sequence[Sample], videos: Videos, each: Map, progress: Progress
) -> Counter[str]:
    """Write `samples.jsonl`, `quarantine.jsonl`, `media.json` and `clips` of a set.

    A question whose video, or one of whose images, is missing or broken goes to the quarantine.

    Args:
        labels: the file that the samples come from.

    Returns:
        counts: `asked`, `quarantined`.

    Raises:
        PrepareError: more questions than `videos.max_quarantined`, or all, have no clip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _require_images(samples, videos)
    taken = [(labels, sample, videos.wishes(sample)) for sample in samples]
    wishes = list(dict.fromkeys(wish for *_, of_sample in taken for wish in of_sample))
    made, clips = make_clips(folder, wishes, videos, each, progress)
    path = folder / "samples.jsonl"
    with path.with_name("quarantine.jsonl").open("w", encoding="utf-8") as out:
        quarantine = Quarantine(out)
        asked = write_samples(path, with_clips(path, taken, clips, made, quarantine))
    counts = Counter(asked=asked, quarantined=quarantine.count)
    if quarantine.count > videos.max_quarantined * len(samples):
        raise PrepareError(
            f"{quarantine.count} of {len(samples)} questions have broken or missing videos or images, more than "
            f"data.max_quarantined={videos.max_quarantined:g}: see {path.with_name('quarantine.jsonl')}"
        )
    write_manifest(folder, videos.budget, len(clips), videos.stills)
    return counts


def _require_images(samples: Sequence[Sample], videos: Videos) -> None:
    """Refuse questions that show more images than the budget takes: a benchmark may not drop questions.

    Raises:
        PrepareError: with their number.
    """
    most = videos.stills.most if videos.stills else 0
    if more := [sample for sample in samples if len(sample.images) > most]:
        count = max(len(sample.images) for sample in more)
        raise PrepareError(
            f"{len(more)} of {len(samples)} questions show up to {count} image(s), {more[0].id!r} first, and the set's "
            f"media budget takes {most}: give it images (media.images, docs/media.md), or keep the parts about videos "
            "with only=..."
        )


def trained_on(run: RunFolder, root: Path, samples: Iterable[Sample]) -> int:
    """How many of an evaluation set's samples show videos or images that the run trains on, by their content.

    Published sets share videos, and a benchmark may not drop questions: so they are counted, where a run's own test
    split is refused.

    Args:
        root: what the samples' clips are relative to.
    """
    splits = [run.samples(split) for split in ("sft", "rl") if run.samples(split).exists()]
    trained = {run.data / name for path in splits for sample in read_samples(path) for name in sample.media}
    seen = {_content(path) for path in trained} - {None}
    return sum(any(_content(root / name) in seen for name in sample.media) for sample in samples) if seen else 0


def _content(clip: Path) -> str | None:
    """Hash of the video or image that a clip or picture was made of; None for a rendered one."""
    facts_of = (clip.with_suffix(".json"), clip.parent.with_suffix(".json"))  # of a clip or picture, of a clip's images
    facts: dict[str, Any] = next((json.loads(path.read_text()) for path in facts_of if path.exists()), {})
    made = facts.get("clip") or facts.get("still")
    return made["source_sha256"] if made else None

"""Prepare a run's data folder: samples, their clips, and the files that LLaMA-Factory and verl read.

The user's label files are read twice. The first pass finds the videos, so that leaks are refused and clips made; the
second writes each sample, with its clip, to all files at once.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.chains import check_form
from data_tools.exports import ExportFile, eval_file, export, llamafactory_file, sample_file, verl_file
from data_tools.labels import LabelFile, Wanted, read_wanted
from data_tools.media.budget import Budget, Stills
from data_tools.media.cache import Progress
from data_tools.media.child import ClipError
from data_tools.media.normalise import Clip, ClipImages
from data_tools.media.parallel import Map
from data_tools.media.store import Medium, Wish, by_path, moved, normalise_all, paths_of, write_manifest
from data_tools.poses import PoseFolder, counts_of, motions_of, summary_of, with_motions
from data_tools.prompt import Form
from data_tools.quarantine import Quarantine, Rejected
from data_tools.rendered.dataset import RenderedSettings, build_rendered
from data_tools.run_folder import RunFolder
from data_tools.sample import FieldError, Sample, read_samples
from data_tools.splits import Uses, refuse_leaks, require_use
from rewards.errors import UserError

Report = Callable[[str], None]


class PrepareError(UserError):
    """Data that no run can use; the message names the file."""


@dataclass(frozen=True)
class Videos:
    """Where the videos lie, and what is made of them.

    Attributes:
        root: the media root.
        store: folder of the clips, shared by all runs: a clip's name says what it was made of.
        budget: of all clips whose label file has none of its own.
        stills: of all images; None takes none.
        links_into: folders that symbolic links in the media root may lead into, besides itself.
        max_quarantined: share of the samples that may be left out because their videos, or their chains, are broken.
    """

    root: Path
    store: Path
    budget: Budget
    max_quarantined: float
    links_into: tuple[Path, ...] = ()
    stills: Stills | None = None

    def wishes(self, sample: Sample, budget: Budget | None = None) -> list[Wish]:
        """What is made of what a sample shows.

        Args:
            budget: of its clip; None: `self.budget`.
        """
        if sample.images:
            assert self.stills is not None, "samples with images are taken where there is a budget for them"
            return [(cut, self.stills) for cut in sample.cuts]
        return [(cut, budget or self.budget) for cut in sample.cuts]


# ---------------------------------------------------------------- the user's files


def prepare_files(
    run: RunFolder,
    labels: Mapping[str, Sequence[LabelFile]],
    videos: Videos,
    wanted: Wanted,
    each: Map,
    report: Report,
    progress: Progress,
    poses: PoseFolder | None = None,
) -> dict[str, int]:
    """Write data/{sft,rl,val,test}.jsonl with clips in the media budget, data/llamafactory/ and data/verl/.

    A sample whose video or poses cannot be used, or that is longer than its limit, goes to data/quarantine.jsonl. To
    data/<split>.quarantine.jsonl go published records that are not valid samples, questions that hold what engines take
    for a clip, and chains without the form or the answer that the reward asks for.

    Args:
        labels: files of each split.
        each: decodes the videos.
        poses: where the camera's tracks lie: samples get what their clip shows as `extras["motion"]`.

    Returns:
        The number of samples of each split.

    Raises:
        SampleError, SourceError: a bad file. PromptError: a task without a text. SplitError: a clip that is evaluated
            and trained on. PoseError: no video has a pose file. PrepareError: more is left out than `max_quarantined`,
            or all of a split.
    """
    wishes: dict[Wish, None] = {}
    uses = {split: _read_uses(run, split, files, wishes, wanted, videos, report) for split, files in labels.items()}
    refuse_leaks(uses.values())
    made, clips = make_clips(run.data, list(wishes), videos, each, progress)
    first: dict[str, str] = {}  # content -> the first video, or image, that has it
    refuse_leaks(
        uses.values(), {cut.video: first.setdefault(clip.source_sha256, cut.video) for (cut, _), clip in clips.items()}
    )
    by_name = by_path(clips.values())
    seen = motions_of(clips, poses) if poses else {}
    tracks = counts_of(seen, len(clips)) if poses else None
    if tracks:
        report(summary_of(tracks))
    counts = {}
    with run.quarantine.open("w", encoding="utf-8") as out:
        quarantine = Quarantine(out)
        for split, files in labels.items():
            taken = (
                (file.path, sample, file.budget or videos.budget) for file, sample in read_wanted(files, split, wanted)
            )
            too_long = partial(wanted.excess, split, side=videos.budget.token_side)
            known = with_motions(taken, seen, quarantine)
            wishing = ((file, sample, videos.wishes(sample, budget)) for file, sample, budget in known)
            samples = with_clips(run.samples(split), wishing, clips, made, quarantine, too_long)
            counts[split] = _export(run, split, samples, by_name, wanted.form, sample_file(run.samples(split)))
    _report_left_out(sum(counts.values()), quarantine, run.quarantine, videos.max_quarantined, report)
    write_manifest(run.data, videos.budget, len(by_name), videos.stills, tracks)
    return counts


def _report_left_out(good: int, quarantine: Quarantine, path: Path, most: float, report: Report) -> None:
    """Say how many samples were left out, and why.

    Raises:
        PrepareError: more than the share `most`.
    """
    bad, total = quarantine.count, good + quarantine.count
    videos, images = quarantine.fields["video"], quarantine.fields["images"]
    broken = videos + images
    poses = quarantine.fields["poses"] + quarantine.fields["extras.motion"]
    parts = {
        "with broken videos": videos,
        "with broken images": images,
        "with poses that cannot be used": poses,
        "longer than their limit": bad - broken - poses,
    }
    said = [f"{count} {what}" for what, count in parts.items() if count]
    if bad:
        report(f"{total} samples = {good} + {' + '.join(said)}: reasons in {path}")
    if bad > most * total:
        what = (
            f"have {said[0].partition(' with ')[2]}"
            if len(said) == 1 and bad == broken
            else f"are left out ({', '.join(said)})"
        )
        raise PrepareError(f"{bad} of {total} samples {what}, more than data.max_quarantined={most:g}: see {path}")


def make_clips(
    folder: Path, wishes: Sequence[Wish], videos: Videos, each: Map, progress: Progress
) -> tuple[dict[Wish, Medium | ClipError], dict[Wish, Medium]]:
    """Normalise videos and images into their store, and link the store as `folder`/clips.

    Returns:
        what became of each wish; and the clips and pictures among them, by their path under `folder`.
    """
    made: dict[Wish, Medium | ClipError] = {}
    for budget in dict.fromkeys(budget for _, budget in wishes):
        cuts, before = [cut for cut, its in wishes if its == budget], len(made)

        def shown(done: int, _: int, before: int = before) -> None:
            progress(before + done, len(wishes))

        for cut, clip in normalise_all(
            cuts, videos.root, videos.store, budget, each, progress=shown, links_into=videos.links_into
        ):
            made[cut, budget] = clip
    link = folder / "clips"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(videos.store, folder), target_is_directory=True)
    return made, {wish: moved(one, "clips") for wish, one in made.items() if not isinstance(one, ClipError)}


def _read_uses(
    run: RunFolder,
    split: str,
    files: Sequence[LabelFile],
    wishes: dict[Wish, None],
    wanted: Wanted,
    videos: Videos,
    report: Report,
) -> Uses:
    """Which videos and images the samples of a split show; what is no valid sample or chain goes to its quarantine.

    Args:
        wishes: takes the parts of the videos, and the images, that they show, with their budgets, in order.
    """
    path = run.rejected(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    uses: Uses = Counter()
    good = 0
    with path.open("w", encoding="utf-8") as out:
        quarantine = Quarantine(out)
        for file, sample in read_wanted(files, split, wanted, quarantine.add):
            good += 1
            require_use(file.path, sample, split)
            uses.update((split, name) for name in dict.fromkeys(sample.media))
            wishes.update(dict.fromkeys(videos.wishes(sample, file.budget)))
    chains, records = quarantine.fields["chain"], quarantine.count - quarantine.fields["chain"]
    if chains:
        report(
            f"{split}: {good + chains} chains = {good} + {chains} that teach another form or answer: reasons in {path}"
        )
    if records:
        report(f"{split}: {records} records are not valid samples: reasons in {path}")
    if chains > videos.max_quarantined * (good + chains):
        raise PrepareError(
            f"{chains} of {good + chains} chains of {split} have another form or answer than the reward asks for, more "
            f"than data.max_quarantined={videos.max_quarantined:g}: see {path}"
        )
    if not good:
        raise PrepareError(f"none of the records of {split} can be used: see {path}")
    if not quarantine.count and all(file.source is None for file in files):
        path.unlink()
    return uses


def with_clips(
    path: Path,
    taken: Iterable[tuple[Path, Sample, Sequence[Wish]]],
    clips: Mapping[Wish, Medium],
    made: Mapping[Wish, Medium | ClipError],
    quarantine: Quarantine,
    too_long: Callable[[Sample, Sequence[Medium]], FieldError | None] = lambda sample, shown: None,
) -> Iterator[Sample]:
    """The samples all of whose clip or images are in their budget, which they then name; others are quarantined.

    Args:
        path: the file that they are written to.
        taken: each sample with the label file that it comes from, and what is made of what it shows.
        too_long: why a sample with its clip or images does not fit.
    """
    kept = False
    for file, sample, wishes in taken:
        shown = [clips[wish] for wish in wishes if wish in clips]
        if len(shown) == len(wishes):
            with_clip = _naming(sample, shown)
            if fault := too_long(with_clip, shown):
                quarantine.add(Rejected(str(file), sample.id, fault.field, fault.reason))
                continue
            kept = True
            yield with_clip
        elif broken := next((made[wish] for wish in wishes if isinstance(made.get(wish), ClipError)), None):
            quarantine.add(Rejected(str(file), sample.id, sample.shows, str(broken)))
        else:
            raise PrepareError(f"{file} changed while it was read: run the stage again")
    if not kept:
        fields = {"video": "videos", "images": "images"}
        what = " and ".join(plural for field, plural in fields.items() if quarantine.fields[field]) or "samples"
        raise PrepareError(f"none of the {what} of {path} can be used: see {path.with_name('quarantine.jsonl')}")


def _naming(sample: Sample, shown: Sequence[Medium]) -> Sample:
    """The sample with what was made of its media, whose sources it keeps in `extras`.

    A clip is the whole of what its sample is about: `start` and `end` are gone from it, and kept as `source_part`.
    """
    (clip, *_), (cut, *_) = shown, sample.cuts
    paths = [path for one in shown for path in paths_of(one)]
    if not isinstance(clip, Clip | ClipImages):
        extras = {**sample.extras, "source_images": sample.images}
        return sample.model_copy(update={"images": paths, "extras": extras})
    extras = {**sample.extras, "source_video": cut.video}
    if cut.is_part:
        extras["source_part"] = [cut.start, cut.end]
    if sample.frames:
        extras["source_frames"] = sample.frames
    known: dict[str, Any] = {"duration": sample.duration or clip.duration, "extras": extras}
    known |= {"video": clip.video} if isinstance(clip, Clip) else {"video": None, "images": paths}
    return sample.model_copy(update=known | {"frames": [], "fps": None, "start": None, "end": None})


# ---------------------------------------------------------------- rendered clips


def prepare_rendered(
    run: RunFolder, settings: RenderedSettings, budget: Budget, wanted: Wanted, workers: int, progress: Progress
) -> dict[str, int]:
    """Draw clips that are in the media budget already, and write the same files; the number of samples per split.

    Raises:
        PrepareError: no sample of the tasks, or chains in another form than the reward reads.
    """
    build_rendered(settings, run.data, workers, progress)
    clip = Clip(
        video="",
        frames=settings.frames,
        step_ms=budget.step_ms,
        width=settings.size,
        height=settings.size,
        duration=settings.frames * budget.step_ms / 1000,
        source_sha256="",
    )
    drawn = [f"clips/{path.name}" for path in run.clips.glob("*.mp4")]
    clips = {video: replace(clip, video=video) for video in drawn}
    write_manifest(run.data, budget, len(clips))
    return {
        split: _export(run, split, _rendered(run, split, wanted), clips, wanted.form, sample_file(run.samples(split)))
        for split in settings.splits
    }


def _rendered(run: RunFolder, split: str, wanted: Wanted) -> Iterator[Sample]:
    """The wanted samples of a rendered split; their chains are right by construction, their form is the recipe's."""
    taken = False
    for sample in read_samples(run.samples(split)):
        if wanted.takes(split, sample):
            taken = True
            if split == "sft":
                try:
                    sample = wanted.turned(sample)
                    check_form(sample, wanted.form.schema_of(sample.task))
                except FieldError as fault:
                    raise PrepareError(
                        f"rendered {sample.id}: {fault}; see data.rendered.chains, data.chains"
                    ) from fault
            yield sample
    if not taken:
        raise PrepareError(f"no rendered question of {split} has a task of data.tasks.{split}={wanted.tasks[split]}")


def _export(
    run: RunFolder, split: str, samples: Iterator[Sample], clips: Mapping[str, Medium], form: Form, *files: ExportFile
) -> int:
    """Write a split's samples to `files` and to the engines' files, in one pass."""
    if split == "sft":
        files += (llamafactory_file(run.llamafactory_data, form),)
    else:
        files += (verl_file(run.verl_data(split), run.data, clips, form),)
    if split == "test":
        files += (eval_file(run.eval_data(split), run.data, clips, form),)
    return export(samples, run.data, *files)

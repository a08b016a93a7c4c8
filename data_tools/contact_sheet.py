"""A page of what a model will see: samples of each split with their prepared clips, the whole prompts and answers."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_tools.files import write_text
from data_tools.media.stills import picture_of
from data_tools.prompt import Form, without_media
from data_tools.rendered.scene import read_clip
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, read_samples
from data_tools.templates import template

EACH = 3  # samples of a task in a split
READ = 2_000  # samples of a split among which they are looked for
FRAMES, SIDE = 8, 160  # frames of a clip that are shown, and pixels of their longer side, at most


def write_contact_sheet(run: RunFolder, splits: Iterable[str], form: Form) -> Path:
    """Write data/contact_sheet.html of a run whose data are prepared; its path. It holds its pictures itself."""
    groups = {split: [_card(run.data, sample, form) for sample in _drawn(run.samples(split))] for split in splits}
    root = run.root.absolute()
    name = f"{root.parent.name} / {root.name}"
    page = template(Path(__file__).with_name("contact_sheet.html.j2"))
    write_text(run.contact_page, page.render(run=name, groups=groups))
    return run.contact_page


def _drawn(path: Path) -> Iterator[Sample]:
    """The first EACH samples of each task, each about another clip."""
    seen: set[tuple[str, ...]] = set()
    of_task: Counter[str] = Counter()
    for sample in islice(read_samples(path), READ):
        shows = (sample.task, *sample.media)
        if of_task[sample.task] < EACH and shows not in seen:
            seen.add(shows)
            of_task[sample.task] += 1
            yield sample


def _card(root: Path, sample: Sample, form: Form) -> dict[str, Any]:
    if sample.images:
        pictures = [picture_of(root / name)[0] for name in sample.images]
        what = ", ".join(f"{picture.width} x {picture.height}" for picture in pictures)
    else:
        (name,) = sample.media
        clip = read_clip(root / name)
        places = np.unique(np.linspace(0, len(clip) - 1, FRAMES).round().astype(int))
        pictures = [Image.fromarray(clip[place]) for place in places]
        what = f"{len(clip)} frames of {clip.shape[2]} x {clip.shape[1]}"
        what += f", of which {len(places)} are shown" if len(places) < len(clip) else ""
    turns = [(turn["role"], without_media(turn["content"])) for turn in form.messages(sample)]
    if sample.split == "sft" and sample.chain:
        turns.append(("assistant", sample.chain))
    return {"sample": sample, "pictures": [_uri(picture) for picture in pictures], "what": what, "turns": turns}


def _uri(picture: Image.Image) -> str:
    small, out = picture.convert("RGB"), BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(out.getvalue()).decode()}"

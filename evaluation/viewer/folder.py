"""The viewer as a folder whose page opens without a server: the page, its data in small files, and the clips."""

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_tools.files import whole_folder, write_text
from evaluation.report.clips import FOLDER, PREVIEW_BYTES
from evaluation.viewer import media
from evaluation.viewer.content import Medium, group
from evaluation.viewer.index import Index, WatchError
from evaluation.viewer.page import FILES, description, page
from evaluation.viewer.query import CONDITIONS, ORDERS, Query, counts_of, ids_of, overview
from evaluation.viewer.sources import ROLLOUTS
from rewards.errors import UserError

LISTED = 1000  # groups that a filter lists in an order, at most
CHUNK = 20  # groups in a file


def write_folder(
    indexes: Sequence[Index],
    out: Path,
    progress: Callable[[int], object] = lambda done: None,
    report: str | None = None,
) -> Path:
    """Write the folder in place of one that this has written before; the path of its page.

    A browser may not load data into a page that was opened as a file, except as scripts: `data/*.js` holds, for each
    step and filter, the first LISTED groups in each order, and the groups themselves, CHUNK a file. Clips beyond
    PREVIEW_BYTES are named as missing.

    Args:
        progress: is called with the number of groups written so far.
        report: link to the report of the whole run, where the indexes hold a part of it (`Index.excerpt`).

    Raises:
        WatchError: `out` is a folder of something else.
    """
    if out.exists() and not (out / "viewer.js").is_file():
        raise WatchError(f"{out} is there and holds something else: give another out=")
    with whole_folder(out) as made:
        written, done = _Folder(made, indexes), 0
        written.write("runs", _description(indexes))
        for name, content in FILES.items():
            write_text(made / name, content()[0])
        for run, index in enumerate(indexes):
            written.lists(run)
            for number, chunk in _chunks(index):
                groups = {id: group(indexes, run, id, written.show) for id in chunk}
                written.write(f"groups-{run}-{number}", groups)
                done += len(chunk)
                progress(done)
        write_text(made / "index.html", page(live=False, report=report))
        shutil.rmtree(out, ignore_errors=True)
    return out / "index.html"


def _description(indexes: Sequence[Index]) -> dict[str, Any]:
    found = description(indexes)
    runs = [run | {"chunk": CHUNK} for run in found["runs"]]
    return {"runs": runs, "version": "", "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def _chunks(index: Index) -> list[tuple[int, list[int]]]:
    """Number of a file, and the groups in it."""
    chunks: dict[int, list[int]] = {}
    for row in index.rows("SELECT id FROM groups WHERE n > 0 ORDER BY id"):
        chunks.setdefault(row["id"] // CHUNK, []).append(row["id"])
    return list(chunks.items())


class _Folder:
    def __init__(self, folder: Path, indexes: Sequence[Index]) -> None:
        self.folder, self.indexes, self.size = folder, indexes, 0

    def write(self, name: str, content: Any) -> None:
        """A file of data, as a script that hands it to the page."""
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        write_text(self.folder / "data" / f"{name}.js", f"watched({json.dumps(name)},{text})\n")

    def lists(self, run: int) -> None:
        """Which groups each filter takes, in each order, of each step and of all."""
        index = self.indexes[run]
        for number, view in enumerate(overview(index)):
            for step in [*(each["step"] for each in view["steps"]), *([None] if view["name"] == ROLLOUTS else [])]:
                asked = Query(view=view["name"], step=step)
                counts = counts_of(index, asked)
                ids = {
                    only: {order: self._ids(index, asked, only, order) if counts[only] else [] for order in ORDERS}
                    for only in CONDITIONS
                }
                name = "all" if step is None else step
                self.write(f"list-{run}-{number}-{name}", {"counts": counts, "ids": ids})

    def _ids(self, index: Index, asked: Query, only: str, order: str) -> list[int]:
        return ids_of(index, asked.model_copy(update={"only": only, "order": order}), LISTED)

    def show(self, run: int, id: int, number: int, root: Path, name: str) -> Medium:
        """The link of a clip, which is copied into the folder; or why there is none."""
        try:
            made = media.preview_file(self.indexes[run].run, media.find(root, name))
            target = self.folder / FOLDER / made.name
            if not target.exists():
                if self.size + made.stat().st_size > PREVIEW_BYTES:
                    return {"kind": media.kind(name), "missing": f"{name} is left out, to keep the folder small"}
                self.size += made.stat().st_size
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(made, target)
        except UserError as error:
            return {"kind": media.kind(name), "missing": str(error)}
        return {"kind": media.kind(name), "link": f"{FOLDER}/{made.name}"}

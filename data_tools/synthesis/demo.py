"""Rendered clips and a local server that fails at times, in place of the recipe's samples and models."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.rendered.dataset import RenderedSettings, SplitSize, build_rendered
from data_tools.synthesis.local_server import LocalEndpoint
from data_tools.synthesis.settings import Settings
from data_tools.synthesis.teacher import RenderedTeacher

CLIPS = SplitSize(clips=45, binary=180, choice=45, confusable=0.5)
FEW = SplitSize(clips=15, binary=2)


@contextmanager
def with_local_server(settings: Settings, report: Callable[[str], None]) -> Iterator[Settings]:
    """The settings, with `endpoint.url` and `judge.url` filled in where they are null and `local` asks for a server.

    It renders the clips under the media root and serves a teacher that knows them.
    """
    if settings.local is None:
        yield settings
        return
    data = Path(settings.media_root)
    report(f"rendering {CLIPS.clips} clips")
    build_rendered(RenderedSettings(sft=CLIPS, rl=FEW, test=FEW), data)
    with LocalEndpoint(RenderedTeacher(data), fault_rate=settings.local.fault_rate) as server:
        report(f"local server {server.url}; {settings.local.fault_rate:.0%} of the requests fail, and are retried")
        clients = {
            name: client | {"url": client.get("url") or server.url} if client.get("name") != "rules" else client
            for name, client in (("endpoint", settings.endpoint), ("judge", settings.judge))
        }
        yield settings.model_copy(update=clients)
    if failed := dict(server.failures):
        report(f"failed requests that were retried: {failed}")

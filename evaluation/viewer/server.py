"""The viewer's server, on this machine alone: the page, its data, and previews of the clips that samples name."""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from evaluation.viewer import media
from evaluation.viewer.content import Medium, group, sample_of
from evaluation.viewer.index import Index, WatchError
from evaluation.viewer.page import FILES, description, page
from evaluation.viewer.query import Query, find
from rewards.errors import UserError, problems

EVERY_S = 1.0  # between two looks at the files
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",  # other sites' pages may not show its clips, either
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Server:
    """Answers of the server about some runs."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self.indexes, self._looked, self._looking = indexes, 0.0, Lock()
        self._started = time.time_ns()

    def app(self) -> Starlette:
        """The ASGI application. A browser that calls it by another machine's name is refused (DNS rebinding)."""
        routes = [
            Route("/", lambda request: _text(page(live=True), "text/html")),
            *(Route(f"/{name}", _file(name)) for name in FILES),
            Route("/data/runs", _json(self.runs)),
            Route("/data/groups", _json(self.groups)),
            Route("/data/group", _json(self.group)),
            Route("/clip/{run:int}/{group:int}/{number:int}", self.clip),
        ]
        hosts = TrustedHostMiddleware
        return Starlette(routes=routes, middleware=[Middleware(hosts, allowed_hosts=["127.0.0.1", "localhost"])])

    def _look(self) -> None:
        with self._looking:
            if time.monotonic() - self._looked > EVERY_S:
                for index in self.indexes:
                    index.refresh()
                self._looked = time.monotonic()

    def runs(self, values: Mapping[str, str]) -> Any:
        """What the runs hold, step by step; `known` is the version that the page has, of which nothing is repeated."""
        self._look()
        version = "-".join(map(str, [self._started, *(index.version for index in self.indexes)]))
        return {"version": version} | ({} if values.get("known") == version else description(self.indexes))

    def groups(self, values: Mapping[str, str]) -> Any:
        """A page of groups."""
        run, query = self._run(values), Query.model_validate({k: v for k, v in values.items() if k != "run"})
        if query.beside is not None:
            self._run({"run": str(query.beside)})
        ids, counts = find(self.indexes, run, query)
        return {"counts": counts, "groups": [group(self.indexes, run, id, self.show) for id in ids]}

    def group(self, values: Mapping[str, str]) -> Any:
        return group(self.indexes, self._run(values), _number(values, "id"), self.show)

    def _run(self, values: Mapping[str, str]) -> int:
        number = _number(values, "run")
        if number >= len(self.indexes):
            raise WatchError(f"run={number}: {len(self.indexes)} runs are watched")
        return number

    def show(self, run: int, id: int, number: int, root: Path, name: str) -> Medium:
        """The link of a clip; or why there is none."""
        try:
            media.find(root, name)
        except UserError as error:
            return {"kind": media.kind(name), "missing": str(error)}
        return {"kind": media.kind(name), "link": f"clip/{run}/{id}/{number}"}

    def clip(self, request: Request) -> Response:
        """A preview, found by the group whose sample names the clip: no path ever comes from the browser."""
        try:
            index = self.indexes[self._run({"run": str(request.path_params["run"])})]
            sample, root = sample_of(index, request.path_params["group"])
            names = dict(enumerate(sample.media))
            if (name := names.get(request.path_params["number"])) is None:
                raise WatchError("the sample does not show so much")
            made = media.preview_file(index.run, media.find(root, name))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 404, HEADERS)
        return FileResponse(made, headers=HEADERS | {"Cache-Control": "max-age=3600"})


def _number(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise WatchError(f"{name}={text}: not a number")
    return int(text)


def _json(work: Callable[[Mapping[str, str]], Any]) -> Callable[[Request], Response]:
    @wraps(work)
    def answer(request: Request) -> Response:
        try:
            return JSONResponse(work(request.query_params), 200, HEADERS)
        except ValidationError as error:
            return JSONResponse({"error": "; ".join(problems(error, "query"))}, 400, HEADERS)
        except (UserError, OSError, sqlite3.Error) as error:  # files that change, or go, while one looks
            return JSONResponse({"error": str(error)}, 409, HEADERS)

    return answer


def _text(text: str, kind: str) -> Response:
    return Response(text, 200, HEADERS, kind)


def _file(name: str) -> Callable[[Request], Response]:
    return lambda request: _text(*FILES[name]())

"""Judges' servers, and folders of their answers, that mean harm."""

import asyncio
import gzip
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_tools.synthesis.local_server import LocalEndpoint
from rewards.judges import http
from rewards.judges.client import Endpoint, EndpointError

ASK = [{"role": "user", "content": "Is it?"}]


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], object]):
    """The address of a server that answers each request by `answer(handler)`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with suppress(OSError):  # the client has had enough
                answer(self)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/v1"
        serving.shutdown()


def ask(url: str, **settings: object) -> str:
    return asyncio.run(Endpoint({"url": url, "model": "m", "attempts": 1, "timeout": 5, **settings}).ask(ASK)).text


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_that_is_packed_is_not_unpacked(status):
    bomb = gzip.compress(b" " * 50_000_000)
    with server(lambda handler: send(handler, status, bomb, Content_Encoding="gzip")) as url:
        with pytest.raises(EndpointError, match="its reply is compressed"):
            ask(url)


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_without_an_end_is_ended(status, monkeypatch):
    monkeypatch.setattr(http, "LARGEST_REPLY", 1 << 20)
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        send(handler, status, b"")
        for _ in range(500):
            handler.wfile.write(bytes(1 << 20))
            sent.append(1)

    with server(endless) as url:
        start = time.monotonic()
        with pytest.raises(EndpointError, match="its reply is longer than 1 MiB"):
            ask(url)
    assert len(sent) < 100 and time.monotonic() - start < 4


def test_a_redirect_leads_nowhere():
    with LocalEndpoint(lambda body: "fine") as other:
        with server(lambda handler: send(handler, 307, b"", Location=f"{other.url}/chat/completions")) as url:
            with pytest.raises(EndpointError, match="307"):
                ask(url)
        assert not other.bodies


@pytest.mark.parametrize("tokens", ["-1000000", "1e999", '"5"' + "0" * 5000])
def test_a_reply_does_not_lower_what_was_spent(tokens):
    reply = f'{{"choices": [{{"message": {{"content": "A"}}}}], "usage": {{"prompt_tokens": {tokens}}}}}'
    with server(lambda handler: send(handler, 200, reply.encode())) as url:
        client = Endpoint({"url": url, "model": "m", "attempts": 1, "max_tokens": 10})
        with pytest.raises(EndpointError, match="not a chat completion"):
            asyncio.run(client.ask(ASK))
        assert client.usage.prompt_tokens == 0


def test_a_shared_folder_of_answers_runs_no_code(tmp_path: Path):
    made = tmp_path / "made"

    class Payload:
        def __reduce__(self):
            return Path.touch, (made,)

    with LocalEndpoint(lambda body: "fine") as local:
        settings = {"cache": str(tmp_path / "cache")}
        assert ask(local.url, **settings) == "fine"
        with sqlite3.connect(tmp_path / "cache" / "cache.db") as rows:
            rows.execute("UPDATE Cache SET mode = 4, value = ?", [pickle.dumps(Payload())])
        with pytest.raises(EndpointError, match="not a cache of answers"):
            ask(local.url, **settings)
        with sqlite3.connect(tmp_path / "cache" / "cache.db") as rows:
            rows.execute("UPDATE Cache SET mode = 1, value = ?", [b"junk"])
        with pytest.raises(EndpointError, match="not a cache of answers"):
            ask(local.url, **settings)
    assert not made.exists()

"""A deterministic OpenAI-compatible server on the loopback address, for tests and the demo; faults on demand."""

import hashlib
import json
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "hang", "malformed", "slow", "disconnect")
Body = dict[str, Any]


class LocalEndpoint:
    """`with LocalEndpoint(answer) as server:` serves chat completions at `server.url`.

    Attributes:
        faults: what happens to the next requests, in order; one of `FAULTS` each ("" for none). 429 asks to come back
            after `retry_after` seconds, `hang` never answers, `slow` sends a byte every 50 ms, `malformed` cuts the
            JSON in half.
        status, message: what every request without a fault gets; with 200, an answer.
        failures: how often each fault has happened.
        bodies: what was asked, the latest 200.
        headers: of these requests.
    """

    def __init__(
        self,
        answer: Callable[[Body], str],
        faults: Iterable[str] = (),
        fault_rate: float = 0.0,
        retry_after: float = 0.0,
        port: int = 0,
    ) -> None:
        """`fault_rate`: share of the requests that fail on their own; it depends on what is asked and how often."""
        self.answer, self.fault_rate, self.retry_after = answer, fault_rate, retry_after
        self.faults = deque(faults)
        self.failures: Counter[str] = Counter()
        self.bodies: deque[Body] = deque(maxlen=200)
        self.headers: deque[Message] = deque(maxlen=200)
        self.status, self.message = 200, ""
        self.closing = threading.Event()
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"endpoint": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "LocalEndpoint":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, raw: bytes) -> str:
        """The fault of this request: the next of `faults`, else by chance, which the request itself decides."""
        with self._lock:
            if self.faults:
                return self.faults.popleft()
            key = hashlib.sha256(raw).hexdigest()
            self._asked[key] += 1
            luck = chance(key, str(self._asked[key]))
        transient = FAULTS[:2] + ("malformed", "disconnect")
        return transient[int(luck / self.fault_rate * len(transient))] if luck < self.fault_rate else ""


def chance(*texts: str) -> float:
    """A number in [0, 1) that the texts decide."""
    return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:6], "big") / 2**48


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no fault of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    endpoint: LocalEndpoint
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        endpoint = self.endpoint
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        endpoint.bodies.append(body)
        endpoint.headers.append(self.headers)
        if fault := endpoint.fault(raw):
            endpoint.failures[fault] += 1
        if fault == "429":
            self._send(429, _error("too many requests"), {"Retry-After": f"{endpoint.retry_after:g}"})
        elif fault == "500":
            self._send(500, _error("overloaded"))
        elif fault == "hang":
            endpoint.closing.wait()
        elif fault == "disconnect":
            self.close_connection = True
        elif endpoint.status != 200:
            self._send(endpoint.status, _error(endpoint.message))
        else:
            reply = json.dumps(_completion(body, endpoint.answer(body))).encode()
            self._send(200, reply[: len(reply) // 2] if fault == "malformed" else reply, drip=fault == "slow")

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, drip: bool = False) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(content),
            **(headers or {}),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        for byte in content if drip else ():
            self.wfile.write(bytes([byte]))
            if self.endpoint.closing.wait(0.05):
                return
        self.wfile.write(b"" if drip else content)


def _error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "local", "code": None}}).encode()


def _completion(body: Body, text: str) -> dict[str, Any]:
    """A chat completion; a token is a word."""
    prompt = sum(len(part.split()) for part in texts_of(body))
    tokens = len(text.split())
    return {
        "id": "local",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens},
    }


def texts_of(body: Body) -> list[str]:
    """Texts of all messages, in order."""
    texts = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts += [part["text"] for part in parts if part["type"] == "text"]
    return texts

"""HTTP details of the client: connections, server load, replies, and the Retry-After header."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import openai


MAX_WAIT = 60.0  # seconds between two attempts, whatever a server's Retry-After says
LARGEST_REPLY = 32 << 20  # bytes, of a whole response or of an error


class PassingError(Exception):
    """A failure that may not recur: try again, after `wait` seconds if the server says so."""

    wait: float | None = None


class _Read(BaseModel):
    model_config = ConfigDict(defer_build=True)


class _Message(_Read):
    content: str


class _Choice(_Read):
    message: _Message
    finish_reason: str | None = None


class _Tokens(_Read):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(0, ge=0)


class Reply(_Read):
    """The fields of a chat completion that are used."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens


class Server:
    """One address: its load, its consecutive failures, and until when it rests after one."""

    def __init__(self, url: str) -> None:
        self.url, self.busy, self.failures, self.rests_until = url, 0, 0, 0.0

    def rank(self, now: float) -> tuple[bool, bool, int]:
        """The lowest is asked first; a server that has failed gets one request at a time."""
        return self.rests_until > now, bool(self.failures and self.busy), self.busy


class Servers:
    """Spreads requests over servers of the same model; `wait`: seconds that one rests after its first failure."""

    def __init__(self, urls: Sequence[str], wait: float) -> None:
        self.servers, self.wait = [Server(url) for url in urls], wait

    @contextmanager
    def least_busy(self, failed: set[str]) -> Iterator[Server]:
        """The server with the fewest requests in flight, among those that have not failed just now or on this request.

        `failed`: servers where this request has failed; updated.
        """
        now = time.monotonic()
        server = min(self.servers, key=lambda each: (each.url in failed, *each.rank(now)))
        server.busy += 1
        try:
            yield server
            server.failures = 0
        except PassingError as error:
            failed.add(server.url)
            # Without the rest, a dead server would be the least busy of all, and draw every request.
            if (now := time.monotonic()) >= server.rests_until:
                rest = error.wait or self.wait * 2 ** min(server.failures, 10)
                server.failures += 1
                server.rests_until = now + min(rest, MAX_WAIT)
            raise
        finally:
            server.busy -= 1


def clients_of(urls: Sequence[str], key: str | None, timeout: float) -> "dict[str, openai.AsyncOpenAI]":
    """A client per server."""
    import openai

    return {
        url: openai.AsyncOpenAI(
            base_url=url,
            api_key=key or "none",  # otherwise the client would send OPENAI_API_KEY to any server
            organization="",
            project="",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                # A proxy for the outside world must not get what is meant for a server on this machine.
                trust_env=not is_loopback(url),
                headers={"Accept-Encoding": "identity"},
                event_hooks={"response": [_bound]},
                follow_redirects=False,  # neither the key nor the clip goes where the recipe does not say
                verify=url.startswith("https"),  # loading certificates takes a tenth of a second
            ),
        )
        for url in urls
    }


async def _bound(response: Any) -> None:
    """Have a reply that grows beyond LARGEST_REPLY end in an error, and one that would do so while it is unpacked."""
    from httpx2 import AsyncByteStream, RemoteProtocolError  # openai's

    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RemoteProtocolError("its reply is compressed, though this was not asked for")

    class Bounded(AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream, self.size = stream, 0

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self.stream:
                self.size += len(part)
                if self.size > LARGEST_REPLY:
                    raise RemoteProtocolError(f"its reply is longer than {LARGEST_REPLY >> 20} MiB")
                yield part

        async def aclose(self) -> None:
            await self.stream.aclose()

    response.stream = Bounded(response.stream)


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_after_seconds(retry_after: str | None) -> float | None:
    """Seconds from now by a Retry-After header (seconds or a date); None if absent or invalid."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if seconds == seconds else None

"""One asynchronous client for OpenAI-compatible servers (vLLM or hosted): judges and chain synthesis ask through it.

Bounded concurrency over one or more servers of the same model, retries with back-off, a total time limit per attempt
(a server that sends one byte a minute passes every read limit), structured output, a disk cache, a budget and totals.
The key is read from the environment when a request is sent, and stands in no setting, cache file or message.
"""

import asyncio
import base64
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

MAX_WAIT = 60.0  # seconds between two attempts, and for how long a server's Retry-After is believed


class EndpointError(RuntimeError):
    """A request without an answer; the message names the server and the reason."""


class RefusedError(EndpointError):
    """The server refuses whatever is asked of it: a wrong key, address or model."""


class BudgetError(EndpointError):
    """The cap on requests, tokens or cost is reached."""


class _PassingError(EndpointError):
    """A failure that another attempt may mend."""

    wait: float | None = None


class EndpointSettings(BaseModel):
    """Where to ask, how hard to try and what it may cost.

    Attributes:
        url: base address or addresses, e.g. http://127.0.0.1:8000/v1; each request goes to the least busy one.
        model: its name at the servers.
        api_key_env: the environment variable that holds the key; null sends none.
        concurrency: requests under way at one server.
        timeout: seconds for one attempt, first byte to last.
        attempts: per request; waits double between them, or follow the server's Retry-After.
        wait: seconds before the second attempt.
        cache: folder of answers by what was asked, or null; any number of processes may share it.
        max_requests, max_tokens, max_cost: what this process may spend in all; requests under way when a cap is reached
            are still paid for.
        price_prompt, price_completion: per million tokens, in the currency of `max_cost`.
        request: further fields of every request, e.g. temperature, max_tokens, seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    url: str | list[str]
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(120.0, gt=0)
    attempts: int = Field(6, ge=1)
    wait: float = Field(1.0, ge=0)
    cache: str | None = None
    max_requests: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    max_cost: float | None = Field(None, ge=0)
    price_prompt: float = Field(0.0, ge=0)
    price_completion: float = Field(0.0, ge=0)
    request: dict[str, Any] = {}

    @field_validator("url")
    @classmethod
    def _plain_http(cls, url: str | list[str]) -> list[str]:
        urls = [url] if isinstance(url, str) else url
        if not urls:
            raise ValueError("needs one address or more")
        for each in urls:
            parts = urlsplit(each)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{each!r} is no http(s) address")
            if parts.username or parts.password or parts.query:
                raise ValueError(
                    f"the address of {parts.hostname} holds a secret or a query; a key goes to api_key_env"
                )
        return [each.rstrip("/") for each in urls]


@dataclass
class Usage:
    """Totals: requests sent (each attempt counts), answers from the cache, tokens, and their price."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        finish_reason: "stop", or "length" where the answer was cut.
        cost: in the currency of the recipe's prices; 0 from the cache.
        cached: whether it was paid for earlier.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cost: float = 0.0
    cached: bool = False


class _Read(BaseModel):
    model_config = ConfigDict(defer_build=True)


class _Message(_Read):
    content: str


class _Choice(_Read):
    message: _Message
    finish_reason: str | None = None


class _Tokens(_Read):
    prompt_tokens: int
    completion_tokens: int = 0


class _Reply(_Read):
    """What is read of a chat completion."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Tokens


class _Server:
    """One address: how busy it is, how often it has failed on end, and until when it is left alone for that."""

    def __init__(self, url: str) -> None:
        self.url, self.busy, self.failures, self.rests_until = url, 0, 0, 0.0

    def rank(self, now: float) -> tuple[bool, bool, int]:
        """The lower, the sooner it is asked; one that has failed is tried by one request at a time."""
        return self.rests_until > now, bool(self.failures and self.busy), self.busy


class Endpoint:
    """The client. Any event loop may use it; connections belong to the loop that asks."""

    def __init__(self, settings: EndpointSettings | Mapping[str, Any], spent: Usage | None = None) -> None:
        """`spent` counts against the budget: what an interrupted run has paid for already.

        Raises:
            EndpointError: wrong settings, or the key's environment variable is not set.
        """
        if not isinstance(settings, EndpointSettings):
            try:
                settings = EndpointSettings.model_validate(dict(settings))
            except ValidationError as error:
                first = error.errors()[0]
                raise EndpointError(f"endpoint.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        self.settings = settings
        self.usage = spent or Usage()
        self._servers = [_Server(url) for url in settings.url]
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = WeakKeyDictionary()
        self._key()

    async def ask(self, messages: Sequence[Mapping[str, Any]], schema: type[BaseModel] | None = None) -> Completion:
        """The model's answer to chat `messages`; with a `schema`, JSON text that is valid under it.

        Raises:
            BudgetError: a cap is reached. RefusedError: key, address or model are wrong.
            EndpointError: no valid answer after all attempts, or the server calls the request wrong.
        """
        body: dict[str, Any] = {"model": self.settings.model, "messages": list(messages), **self.settings.request}
        if schema is not None:
            shape = {"name": schema.__name__, "schema": schema.model_json_schema(), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        cache = self._cache_file(body)
        if cache is not None and (found := _read_cache(cache)) is not None:
            self.usage.cached += 1
            return found
        settings = self.settings
        backoff = wait_exponential_jitter(settings.wait, MAX_WAIT, jitter=settings.wait)

        def wait(state: Any) -> float:
            asked = state.outcome.exception().wait
            return backoff(state) if asked is None else min(asked, MAX_WAIT)

        attempts = AsyncRetrying(
            stop=stop_after_attempt(settings.attempts),
            wait=wait,
            retry=retry_if_exception_type(_PassingError),
            reraise=True,
        )
        failed: set[str] = set()
        async for attempt in attempts:
            with attempt:
                completion = await self._attempt(body, schema, failed)
        if cache is not None:
            _write_cache(cache, completion)
        return completion

    async def close(self) -> None:
        """Close the running loop's connections."""
        connections = self._loops.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            for client in connections.clients.values():
                await client.close()

    async def _attempt(self, body: dict[str, Any], schema: type[BaseModel] | None, failed: set[str]) -> Completion:
        loop = asyncio.get_running_loop()
        connections = self._loops.get(loop)
        if connections is None:
            connections = self._loops[loop] = _Connections(self.settings, self._key())
        async with connections.slots:
            self._check_budget()
            self.usage.requests += 1
            with self._least_busy(failed) as server:
                reply = await self._post(connections.clients[server.url], server.url, body)
        choice, tokens, settings = reply.choices[0], reply.usage, self.settings
        cost = (
            tokens.prompt_tokens * settings.price_prompt + tokens.completion_tokens * settings.price_completion
        ) / 1e6
        self.usage.prompt_tokens += tokens.prompt_tokens
        self.usage.completion_tokens += tokens.completion_tokens
        self.usage.cost += cost
        text = choice.message.content
        if schema is not None:
            try:
                schema.model_validate_json(text)
            except ValidationError as error:
                first = error.errors()[0]
                raise _PassingError(f"{server.url}: an answer beside its schema: {first['msg']}") from error
        return Completion(text, choice.finish_reason or "stop", tokens.prompt_tokens, tokens.completion_tokens, cost)

    async def _post(self, client: Any, url: str, body: dict[str, Any]) -> _Reply:
        """One request, its failures sorted into those that may pass and those that stay."""
        import openai

        fields = {name: value for name, value in body.items() if name not in ("model", "messages")}
        create = client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.settings.timeout):
                raw = await create(model=body["model"], messages=body["messages"], extra_body=fields)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise _PassingError(f"{url}: no whole answer within {self.settings.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise _PassingError(f"{url}: {error.__cause__ or error}") from error
        except openai.APIStatusError as error:
            status, reason = error.status_code, self._without_key(error.message)[:500]
            if status in (401, 403, 404):
                raise RefusedError(f"{url}: {status}: {reason}") from None
            if status < 500 and status not in (408, 409, 429):
                raise EndpointError(f"{url}: {status}: {reason}") from None
            passing = _PassingError(f"{url}: {status}: {reason}")
            passing.wait = _seconds(error.response.headers.get("retry-after"))
            raise passing from None
        try:
            return _Reply.model_validate_json(raw.content)
        except ValidationError as error:
            raise _PassingError(f"{url}: not a chat completion: {error.errors()[0]['msg']}") from error

    @contextmanager
    def _least_busy(self, failed: set[str]) -> Iterator[_Server]:
        """The server with the fewest requests under way, among those that have not just failed, or failed this request.

        `failed`: where this request has failed; added to.
        """
        now = time.monotonic()
        server = min(self._servers, key=lambda each: (each.url in failed, *each.rank(now)))
        server.busy += 1
        try:
            yield server
            server.failures = 0
        except _PassingError as error:
            failed.add(server.url)
            # Without the rest, a dead server would be the least busy of all, and draw every request.
            if (now := time.monotonic()) >= server.rests_until:
                rest = error.wait or self.settings.wait * 2 ** min(server.failures, 10)
                server.failures += 1
                server.rests_until = now + min(rest, MAX_WAIT)
            raise
        finally:
            server.busy -= 1

    def _check_budget(self) -> None:
        settings, usage = self.settings, self.usage
        tokens = usage.prompt_tokens + usage.completion_tokens
        for name, spent in (("max_requests", usage.requests), ("max_tokens", tokens), ("max_cost", usage.cost)):
            cap = getattr(settings, name)
            if cap is not None and spent >= cap:
                raise BudgetError(f"the budget is spent: {name} {cap:g} ({settings.model})")

    def _cache_file(self, body: dict[str, Any]) -> Path | None:
        if self.settings.cache is None:
            return None
        text = json.dumps(body, sort_keys=True, ensure_ascii=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        return Path(self.settings.cache).expanduser() / key[:2] / f"{key}.json"

    def _key(self) -> str | None:
        name = self.settings.api_key_env
        if name is None:
            return None
        if not os.environ.get(name):
            raise EndpointError(f"endpoint.api_key_env: the environment variable {name} is not set")
        return os.environ[name]

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "***") if key else text


class _Connections:
    """One client per server, and the slots that bound their requests, of one event loop."""

    def __init__(self, settings: EndpointSettings, key: str | None) -> None:
        import openai

        self.slots = asyncio.Semaphore(settings.concurrency * len(settings.url))
        self.clients = {
            url: openai.AsyncOpenAI(
                base_url=url,
                api_key=key or "none",  # the client would else take OPENAI_API_KEY, and send it anywhere
                organization="",
                project="",
                max_retries=0,
                timeout=settings.timeout,
                http_client=openai.DefaultAsyncHttpxClient(
                    # A proxy for the outside world must not get what is meant for a server on this machine.
                    trust_env=not _is_loopback(url),
                    follow_redirects=False,  # neither the key nor the clip goes where the recipe does not say
                    verify=url.startswith("https"),  # certificates take a tenth of a second to load
                ),
            )
            for url in settings.url
        }


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date, as seconds from now; None without one that can be read."""
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


def _read_cache(path: Path) -> Completion | None:
    if not path.exists():
        return None
    try:
        return Completion(**json.loads(path.read_text(encoding="utf-8")), cached=True)
    except (ValueError, TypeError) as error:
        raise EndpointError(f"{path}: no cached answer; delete the file") from error


def _write_cache(path: Path, completion: Completion) -> None:
    """Write under another name, then rename: a reader sees a whole file or none."""
    fields = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".partial", delete=False) as out:
        json.dump({name: getattr(completion, name) for name in fields}, out)
    Path(out.name).replace(path)


def data_url(content: bytes, kind: str) -> str:
    """`content` of MIME type `kind` (video/mp4, image/jpeg) as the address that a request can carry it in."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""The asynchronous client for OpenAI-compatible servers (vLLM or hosted), used by judges and chain synthesis.

Bounded concurrency over one or more servers of the same model, retries with back-off, a total time limit per attempt
(a server that sends one byte a minute passes every read limit), structured output, a disk cache, a budget and totals.
The key is read from the environment when a request is sent, and appears in no setting, cache or message.
"""

import asyncio
import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from sqlite3 import DatabaseError
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary
from zlib import error as ZlibError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from rewards.errors import UserError, problems
from rewards.judges.http import MAX_WAIT, PassingError, Reply, Servers, clients_of, retry_after_seconds

if TYPE_CHECKING:
    from diskcache import Cache


class EndpointError(UserError):
    """A request without an answer; the message names the server and the reason."""


class RefusedError(EndpointError):
    """The server refuses every request: a wrong key, address or model."""


class BudgetError(EndpointError):
    """The cap on requests, tokens or cost is reached."""


class EndpointSettings(BaseModel):
    """Which servers to ask, how often to try, and what it may cost.

    Attributes:
        url: base address or addresses, e.g. http://127.0.0.1:8000/v1; each request goes to the least busy one.
        model: its name at the servers.
        api_key_env: the environment variable that holds the key; null sends none.
        concurrency: requests in flight at one server.
        timeout: seconds for one attempt, first byte to last.
        attempts: per request; waits double between them, or follow the server's Retry-After.
        wait: seconds before the second attempt.
        cache: folder of answers by request, or null; any number of processes may share it.
        max_requests, max_tokens, max_cost: what this process may spend in all; requests in flight when a cap is reached
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
                raise ValueError(f"{each!r} is not an http(s) address")
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
        finish_reason: "stop", or "length" where the answer was truncated.
        cost: in the currency of the recipe's prices; 0 from the cache.
        cached: whether it comes from the cache.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cost: float = 0.0
    cached: bool = False


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
                raise EndpointError(f"endpoint.{problems(error)[0]}") from error
        self.settings = settings
        self.usage = spent or Usage()
        self._servers = Servers(settings.url, settings.wait)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = WeakKeyDictionary()
        self._key()

    async def ask(self, messages: Sequence[Mapping[str, Any]], schema: type[BaseModel] | None = None) -> Completion:
        """The model's answer to chat `messages`; with a `schema`, JSON text that is valid under it.

        Raises:
            BudgetError: a cap is reached. RefusedError: key, address or model are wrong.
            EndpointError: no valid answer after all attempts, or the server rejects the request.
        """
        body: dict[str, Any] = {"model": self.settings.model, "messages": list(messages), **self.settings.request}
        if schema is not None:
            shape = {"name": schema.__name__, "schema": schema.model_json_schema(), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        key = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if (cached := self._cached(key)) is not None:
            self.usage.cached += 1
            return cached
        settings = self.settings
        backoff = wait_exponential_jitter(settings.wait, MAX_WAIT, jitter=settings.wait)

        def wait(state: RetryCallState) -> float:
            error = state.outcome and state.outcome.exception()
            retry_after = error.wait if isinstance(error, PassingError) else None
            return backoff(state) if retry_after is None else min(retry_after, MAX_WAIT)

        attempts = AsyncRetrying(
            stop=stop_after_attempt(settings.attempts),
            wait=wait,
            retry=retry_if_exception_type(PassingError),
            reraise=True,
        )
        failed: set[str] = set()
        try:
            completion: Completion = await attempts(self._attempt, body, schema, failed)
        except PassingError as error:
            raise EndpointError(str(error)) from error
        if self._cache is not None:
            fields = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
            self._cache.set(key, {name: getattr(completion, name) for name in fields})
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
            with self._servers.least_busy(failed) as server:
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
                raise PassingError(f"{server.url}: an answer that does not fit its schema: {first['msg']}") from error
        return Completion(text, choice.finish_reason or "stop", tokens.prompt_tokens, tokens.completion_tokens, cost)

    async def _post(self, client: Any, url: str, body: dict[str, Any]) -> Reply:
        """One request; a failure that may not recur is a PassingError."""
        import openai

        fields = {name: value for name, value in body.items() if name not in ("model", "messages")}
        create = client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.settings.timeout):
                raw = await create(model=body["model"], messages=body["messages"], extra_body=fields)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise PassingError(f"{url}: no whole answer within {self.settings.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise PassingError(f"{url}: {error.__cause__ or error}") from error
        except openai.APIStatusError as error:
            status, reason = error.status_code, self._without_key(error.message)[:500]
            if status in (401, 403, 404):
                raise RefusedError(f"{url}: {status}: {reason}") from None
            if status < 500 and status not in (408, 409, 429):
                raise EndpointError(f"{url}: {status}: {reason}") from None
            passing = PassingError(f"{url}: {status}: {reason}")
            passing.wait = retry_after_seconds(error.response.headers.get("retry-after"))
            raise passing from None
        try:
            return Reply.model_validate_json(raw.content)
        except ValidationError as error:
            raise PassingError(f"{url}: not a chat completion: {error.errors()[0]['msg']}") from error

    def _check_budget(self) -> None:
        settings, usage = self.settings, self.usage
        tokens = usage.prompt_tokens + usage.completion_tokens
        for name, spent in (("max_requests", usage.requests), ("max_tokens", tokens), ("max_cost", usage.cost)):
            cap = getattr(settings, name)
            if cap is not None and spent >= cap:
                raise BudgetError(f"the budget is spent: {name} {cap:g} ({settings.model})")

    @cached_property
    def _cache(self) -> "Cache | None":
        """Answers by request. Without a write-ahead log and shared memory, which network file systems do not have."""
        if self.settings.cache is None:
            return None
        import diskcache

        class Plain(diskcache.JSONDisk):  # type: ignore[misc]  # it has no types
            """The base unpickles rows that say so: code of whoever wrote to a shared folder."""

            def fetch(self, mode: int, *where: Any) -> Any:
                if mode == diskcache.core.MODE_PICKLE:
                    raise TypeError("a pickle")
                return super().fetch(mode, *where)

        folder = Path(self.settings.cache)
        options = {"sqlite_journal_mode": "delete", "sqlite_mmap_size": 0, "cull_limit": 0}
        return diskcache.Cache(str(folder), disk=Plain, **options)

    def _cached(self, key: str) -> Completion | None:
        try:
            found = self._cache and self._cache.get(key)
            return Completion(**found, cached=True) if found else None
        except (TypeError, ValueError, ZlibError, DatabaseError) as error:
            raise EndpointError(f"{self.settings.cache}: not a cache of answers; delete this folder") from error

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
    """Of one event loop: a client per server, and the slots that bound their requests."""

    def __init__(self, settings: EndpointSettings, key: str | None) -> None:
        self.slots = asyncio.Semaphore(settings.concurrency * len(settings.url))
        self.clients = clients_of(settings.url, key, settings.timeout)


def data_url(content: bytes, kind: str) -> str:
    """`content` of MIME type `kind` (video/mp4, image/jpeg) as the address that a request can carry it in."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

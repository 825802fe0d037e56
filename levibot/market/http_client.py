"""One place on the web that answers in JSON: bounded in time and size, guarded, and silent about its key."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from levibot.clock import Clock
from levibot.errors import SettingsError, SourceError, SourceUnavailable
from levibot.market.retry_after import parse_retry_after
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.guard import Guard
from levibot.telemetry.metrics import DEFAULT, Metrics

T = TypeVar("T")

MAX_ANSWER_BYTES = 2_000_000
# What a server says of an error goes into a message; it is not ours, so it is cut short.
MAX_REASON_CHARS = 200


class HttpClient:
    """Calls to one host, for one event loop. State: its connections and its circuit.

    name: the place, as messages and metrics call it. base_url: http or https, with host, port and path.
    headers: sent with every call. key: the secret in them, which is cut out of every message. timeout_s: of
    one attempt, from connecting to the answer's last byte. Redirects are not followed. max_answer_bytes:
    of the answer, which must not be packed, for a packed one could unpack to anything. shared: where
    processes tell each other that the place does not answer.
    Repeated is only what a repeat may cure: no connection, time-out, an answer that breaks off, 408, 429 and
    5xx. Raises SettingsError on an address that is none.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        clock: Clock,
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        timeout_s: float = 5.0,
        attempts: int = 3,
        failure_threshold: int = 5,
        reset_s: float = 30.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        shared: CircuitBoard | None = None,
        metrics: Metrics = DEFAULT,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                f"The address of {name}, {base_url!r}, is no web address.", hint="Write https://host/path."
            )
        self.name = name
        self._clock = clock
        self._max_answer_bytes = max_answer_bytes
        self._key = key
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})},
            timeout=httpx.Timeout(timeout_s),
            follow_redirects=False,
            # The machine's proxy settings would send a key through a place that nobody named here.
            trust_env=False,
        )
        self._guard = Guard(
            name,
            timeout_s=timeout_s,
            attempts=attempts,
            failure_threshold=failure_threshold,
            reset_s=reset_s,
            transient=(SourceUnavailable,),
            unavailable=SourceUnavailable,
            shared=shared,
            metrics=metrics,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, query: Mapping[str, str], read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON at `path`. read: raises a ValueError where it is something else.

        Raises SourceUnavailable when the place does not answer, SourceError when it refuses or answers with
        something else.
        """
        return await self._guard.call(self._attempt, "GET", path, self._in_json(read), dict(query), None)

    async def get_bytes(
        self, path: str, query: Mapping[str, str], kinds: Collection[str], read: Callable[[bytes], T]
    ) -> T:
        """As `get`, for what is no JSON. kinds: content types, in lower case, that the answer may have."""

        def read_payload(response: httpx.Response, payload: bytes) -> T:
            if (kind := _kind_of(response)) not in kinds:
                raise ValueError(f"content of type {kind or 'unknown'}")
            return read(payload)

        return await self._guard.call(self._attempt, "GET", path, read_payload, dict(query), None)

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        *,
        before_attempt: Callable[[], Awaitable[None]],
    ) -> T:
        """Like `get`, with a JSON body that is safe to send twice.

        before_attempt: awaited before each attempt; what it raises ends the call.
        """

        async def attempt() -> T:
            await before_attempt()
            return await self._attempt("POST", path, self._in_json(read), {}, dict(body))

        return await self._guard.call(attempt)

    async def _attempt(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response, bytes], T],
        query: dict[str, str],
        body: dict[str, Any] | None,
    ) -> T:
        try:
            async with self._http.stream(method, path, params=query, json=body) as response:
                payload = await self._payload(response)
        except httpx.TransportError as exc:
            # httpx's own texts may name the address, and it carries no key; headers are never in them.
            raise SourceUnavailable(f"{self.name} does not answer ({type(exc).__name__}).") from exc
        except httpx.HTTPError as exc:
            raise SourceError(f"The answer of {self.name} cannot be read ({type(exc).__name__}).") from exc
        self._check_status(response, payload)
        try:
            return read(response, payload)
        except ValueError as exc:
            raise SourceError(
                f"{self.name} answers with something that was not asked for: {self._short(str(exc))}.",
                hint="Its interface may have changed, or a proxy stands before it.",
            ) from exc

    async def _payload(self, response: httpx.Response) -> bytes:
        packing = response.headers.get("content-encoding", "identity")
        if packing != "identity":
            raise SourceError(
                f"{self.name} packs its answer ({self._short(packing)}), which was not asked for."
            )
        payload = bytearray()
        async for piece in response.aiter_raw():
            payload += piece
            if len(payload) > self._max_answer_bytes:
                raise SourceError(
                    f"The answer of {self.name} is longer than {self._max_answer_bytes:,} bytes; "
                    "the rest was not read."
                )
        return bytes(payload)

    def _check_status(self, response: httpx.Response, payload: bytes) -> None:
        status = response.status_code
        if status in (408, 429) or status >= 500:
            raise SourceUnavailable(
                f"{self.name} does not answer (HTTP {status}).",
                retry_after_s=parse_retry_after(response.headers.get("retry-after"), self._clock.now()),
            )
        if status in (401, 403):
            # Its text may repeat the key.
            raise SourceError(f"{self.name} refuses the key (HTTP {status}).", hint="Look at its setting.")
        if status >= 300:
            reason = self._short(payload.decode(errors="replace")) or response.reason_phrase
            raise SourceError(f"{self.name} refuses the call (HTTP {status}: {reason}).")

    def _in_json(self, read: Callable[[Any], T]) -> Callable[[httpx.Response, bytes], T]:
        def read_payload(response: httpx.Response, payload: bytes) -> T:
            kind = _kind_of(response)
            if kind != "application/json" and not kind.endswith("+json"):
                raise ValueError(f"content of type {kind or 'unknown'}")
            try:
                answer = json.loads(payload, parse_constant=_refuse_constant)
            except RecursionError as exc:
                raise ValueError("JSON that is nested too deeply") from exc
            return read(answer)

        return read_payload

    def _short(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "…")
        line = " ".join(text.split())
        return line if len(line) <= MAX_REASON_CHARS else line[:MAX_REASON_CHARS] + "…"


def _kind_of(response: httpx.Response) -> str:
    """The content type, without its parameters."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _refuse_constant(name: str) -> float:
    # Python reads NaN and Infinity, which JSON does not have.
    raise ValueError(f"the number {name}")

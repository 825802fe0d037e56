"""A light HTTP client for benchmarks: of what is measured with it, as little as can be is its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Question:
    """A POST that is sent again and again. is_right: whether the body of an answer is one."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, object]
    is_right: Callable[[bytes], bool]

    def text(self) -> bytes:
        """As it goes over the wire."""
        parts, body = urlsplit(self.url), json.dumps(self.body).encode()
        headers = {
            "host": parts.netloc,
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
        }
        head = f"POST {parts.path or '/'} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        return head.encode() + b"\r\n" + body


def latencies_ms(question: Question, rate_per_s: float, seconds: float, n_connections: int) -> list[float]:
    """Of requests that are due at a steady rate, each from the instant it was due at."""
    n_each = max(1, round(rate_per_s * seconds / n_connections))
    took: list[float] = []

    async def one(connection: Connection, number: int) -> None:
        for turn in range(n_each):
            due = began + (turn * n_connections + number) / rate_per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await connection.ask()
            took.append(1000.0 * (time.perf_counter() - due))

    began = time.perf_counter() + 0.1
    _run(question, n_connections, one)
    return took


def requests_per_s(question: Question, seconds: float, n_connections: int) -> float:
    """Of connections that each ask again as soon as they are answered."""
    n_answered = 0

    async def one(connection: Connection, _: int) -> None:
        nonlocal n_answered
        while time.perf_counter() < ends_at:
            await connection.ask()
            n_answered += 1

    began = time.perf_counter()
    ends_at = began + seconds
    _run(question, n_connections, one)
    return n_answered / (time.perf_counter() - began)


class Connection(asyncio.Protocol):
    """A question, its answer, and then the next question."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._text = question.text()
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._answered: asyncio.Future[None] | None = None

    async def ask(self) -> None:
        """Raises RuntimeError on an answer that is not right, TimeoutError where there is none."""
        self._body.clear()
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(self._text)
        async with asyncio.timeout(TIMEOUT_S):
            await self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Of uvloop, whose classes are not those of asyncio.
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"hung up: {exc}")

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """Called by the parser, as the next one."""
        self._body += part

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), bytes(self._body)
        if status != 200 or not self._question.is_right(body):
            self._fail(f"was answered with {status}: {body[:300]!r}")
        elif self._answered is not None:
            self._answered.set_result(None)

    def close(self) -> None:
        self._transport.close()

    def _fail(self, how: str) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(RuntimeError(f"{self._question.url} {how}"))


def _run(question: Question, n_connections: int, one: Callable[[Connection, int], Awaitable[None]]) -> None:
    async def all_of_them() -> None:
        async with _connected(question, n_connections) as connections:
            await asyncio.gather(*(one(connection, number) for number, connection in enumerate(connections)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_them())


@asynccontextmanager
async def _connected(question: Question, n_connections: int) -> AsyncIterator[list[Connection]]:
    address = urlsplit(question.url)
    assert address.hostname is not None
    assert address.port is not None
    connections: list[Connection] = []
    try:
        for _ in range(n_connections):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(question), address.hostname, address.port
            )
            connections.append(connection)
        yield connections
    finally:
        for connection in connections:
            connection.close()

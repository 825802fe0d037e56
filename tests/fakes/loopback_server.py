"""An HTTP server on loopback, in a thread of its own, that can be told to answer as broken servers do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

Fault = Literal[
    "429",
    "418",
    "500",
    "503",
    "404",
    "redirect",
    "malformed",
    "wrong content",
    "wrong shape",
    "too long",
    "truncated",
    "slow",
    "drip",
    "reset",
    "hang",
]
# An answer that outlasts any client under test.
SLOW_S = 30.0
TOO_LONG_BYTES = 3_000_000


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str


class LoopbackServer:
    """Answers with `respond`, or with `fault` while it is set.

    faulty_paths: only these have the fault, all if empty. retry_after: the header of that name in 429, 418
    and 503. Requests are kept in `asked`.
    """

    content_type = "application/json"

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.faulty_paths: tuple[str, ...] = ()
        self.retry_after: str | None = None
        self.asked: list[Asked] = []
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [asked.path for asked in self.asked]

    async def respond(self, asked: Asked) -> tuple[int, str]:
        """Status and JSON body of the right answer."""
        raise NotImplementedError

    def add_routes(self, app: web.Application) -> None:
        """Routes beside the one that calls `respond`."""

    async def end(self) -> None:
        """Let go of what the routes hold open."""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._end())
        self._thread.join()

    def run(self, work: Any) -> Any:
        """The result of a coroutine that runs in the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application()
        self.add_routes(app)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _end(self) -> None:
        await self.end()
        self._ended.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(
            request.method, request.path, dict(request.query), dict(request.headers), await request.text()
        )
        self.asked.append(asked)
        if self.fault is None or (self.faulty_paths and asked.path not in self.faulty_paths):
            status, body = await self.respond(asked)
            return web.Response(status=status, text=body, content_type=self.content_type)
        return await self._answer_badly(self.fault, request, asked)

    async def _answer_badly(self, fault: Fault, request: web.Request, asked: Asked) -> web.StreamResponse:
        match fault:
            case "429" | "418" | "503":
                headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
                body = '{"code": -1003, "msg": "Too many requests."}'
                return web.Response(
                    status=int(fault), headers=headers, text=body, content_type="application/json"
                )
            case "500" | "404":
                body = '{"code": -1100, "msg": "Illegal characters found in a parameter."}'
                return web.Response(status=int(fault), text=body, content_type="application/json")
            case "redirect":
                return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})
            case "malformed":
                _, body = await self.respond(asked)
                return web.Response(text=body[: len(body) // 2], content_type="application/json")
            case "wrong content":
                return web.Response(text="<html>Down for maintenance</html>", content_type="text/html")
            case "wrong shape":
                return web.Response(text='{"unexpected": [1, 2]}', content_type="application/json")
            case "too long":
                return web.Response(
                    text='{"pad": "' + "x" * TOO_LONG_BYTES + '"}', content_type="application/json"
                )
            case "truncated" | "drip":
                return await self._send_in_parts(request, asked, is_cut=fault == "truncated")
            case "reset":
                _reset(request)
            case "slow" | "hang":
                await self._wait(SLOW_S)
        return web.Response(text="{}", content_type="application/json")

    async def _send_in_parts(self, request: web.Request, asked: Asked, *, is_cut: bool) -> web.StreamResponse:
        _, body = await self.respond(asked)
        response = web.StreamResponse()
        response.content_type = "application/json"
        response.content_length = len(body.encode()) + 1000
        await response.prepare(request)
        await response.write(body.encode()[: len(body) // 2])
        if is_cut:
            assert request.transport is not None
            request.transport.close()
            return response
        while not self._ended.is_set() and request.transport is not None:
            await response.write(b" ")
            await self._wait(0.02)
        return response

    async def _wait(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout_s)


def _reset(request: web.Request) -> None:
    transport = request.transport
    assert transport is not None
    connection: socket.socket = transport.get_extra_info("socket")
    # To linger for no time means that the close is a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

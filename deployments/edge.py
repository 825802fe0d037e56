"""The outermost middlewares: what every answer has, and how long a caller is ready to wait for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import SECURITY_HEADERS, error_response, response_of, trace_id_of, unforeseen
from levibot.errors import UsageError
from levibot.resilience.deadline import deadline
from levibot.telemetry.metrics import HTTP_REQUESTS, HTTP_SECONDS

# The page of the documentation brings its own scripts along, one of them inside of it.
DOCS = "/docs"
DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
TIMEOUT_HEADER = "x-request-timeout"
REQUEST_ID = b"x-request-id"
# In the form that they leave in: every answer has them.
SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
SHORTEST_S, LONGEST_S = 0.01, 30.0


class Edge:
    """Middleware: the id and security headers of every answer, its metrics, the last catch of errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = Request(scope)
        trace_id = trace_id_of(request)
        status = 0

        async def completed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _completed(message["headers"], trace_id)
                if scope["path"].startswith(DOCS):
                    MutableHeaders(scope=message)["content-security-policy"] = DOCS_POLICY
            await send(message)

        try:
            await self._app(scope, receive, completed)
        except Exception as exc:
            if status:
                raise  # half an answer is out already
            await unforeseen(request, exc)(scope, receive, completed)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            HTTP_REQUESTS.labels(route, scope["method"], str(status)).inc()
            HTTP_SECONDS.labels(route).observe(time.perf_counter() - started)


class WithinTime:
    """Middleware: what is done for a request ends when its caller stops waiting, down to the calls of stores.

    The caller says so in seconds, in the header x-request-timeout; without it Serve's own limit holds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get(TIMEOUT_HEADER) if scope["type"] == "http" else None
        if given is None:
            await self._app(scope, receive, send)
            return
        trace_id = trace_id_of(Request(scope))
        try:
            seconds = _seconds(given)
        except UsageError as exc:
            await response_of(exc, trace_id)(scope, receive, send)
            return
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with asyncio.timeout(seconds) as limit:
                with deadline(seconds):
                    await self._app(scope, receive, noted)
        except TimeoutError:
            if has_begun or not limit.expired():
                raise
            message = f"There was no answer within the {seconds:g} s that the caller waits."
            late = error_response(408, "timeout", message, "Wait longer, or try again.", trace_id)
            await late(scope, receive, send)


class OnceEach:
    """Middleware: refuses a query that gives a parameter twice. No route takes a list: one would be lost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"&" in scope["query_string"]:
            request = Request(scope)
            given = Counter(name for name, _ in request.query_params.multi_items())
            twice = [name for name, n in given.items() if n > 1]
            if twice:
                message = f"query.{twice[0][:40]} is given {given[twice[0]]} times: give it once."
                refused = error_response(
                    422, "bad_request", message, "See /docs for the schema.", trace_id_of(request)
                )
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _completed(headers: Iterable[tuple[bytes, bytes]], trace_id: str) -> list[tuple[bytes, bytes]]:
    """With the id, and the security headers that are not among them."""
    own = [pair for pair in headers if pair[0] != REQUEST_ID]
    names = {name for name, _ in own}
    return [*own, (REQUEST_ID, trace_id.encode()), *(pair for pair in SECURITY if pair[0] not in names)]


def _seconds(text: str) -> float:
    """Raises UsageError on what is no number of seconds within the limits."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise UsageError(
            f"{TIMEOUT_HEADER} is {text[:40]!r}.", hint=f"Give seconds, {SHORTEST_S:g} to {LONGEST_S:g}."
        )
    return seconds

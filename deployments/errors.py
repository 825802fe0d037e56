"""Every error leaves in one JSON shape: here, and in the proxy for what the application never saw."""

from __future__ import annotations

import math
import uuid

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from levibot.errors import (
    DataError,
    KeyRefused,
    LeviBotError,
    NotReady,
    RateLimited,
    RegistryConflict,
    RoleRefused,
    SourceDisabled,
    StoreUnavailable,
    UnknownSymbol,
    UnknownVersion,
    UsageError,
)

STATUS_OF: tuple[tuple[type[LeviBotError], int], ...] = (
    (UnknownSymbol, 404),
    (UnknownVersion, 404),
    (RegistryConflict, 409),
    (DataError, 500),
    (UsageError, 400),
    (KeyRefused, 401),
    (RoleRefused, 403),
    (SourceDisabled, 403),
    (RateLimited, 429),
    (NotReady, 503),
    (StoreUnavailable, 503),
)
RETRY_AFTER_S = "1"
# A browser that is led here runs nothing, shows nothing in a frame, guesses no types and keeps no copy.
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# The longest request that makes sense is a few hundred bytes.
MAX_BODY_BYTES = 64 * 1024
# Not the standard library's names: they change between versions of Python.
# What Serve's proxy says of a request for which its queue has no room.
OVERLOAD = b"backpressure"
CODE_OF = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
log = structlog.get_logger()


def trace_id_of(request: Request) -> str:
    """The caller's own `x-request-id` if it is a sane one, otherwise one new id for the whole request."""
    if not hasattr(request.state, "trace_id"):
        given = request.headers.get("x-request-id", "")
        is_sane = given.isascii() and 0 < len(given) <= 64 and given.isprintable()
        request.state.trace_id = given if is_sane else uuid.uuid4().hex
    return str(request.state.trace_id)


def error_body(code: str, message: str, hint: str, trace_id: str) -> dict[str, dict[str, str]]:
    """The one shape of every error."""
    return {"error": {"code": code, "message": message, "hint": hint, "trace_id": trace_id}}


def error_response(
    status: int, code: str, message: str, hint: str, trace_id: str, retry_after_s: float | None = None
) -> JSONResponse:
    """An error as it leaves. retry_after_s: when a repeat has a chance, default after RETRY_AFTER_S."""
    headers = {"x-request-id": trace_id}
    if status in (408, 429, 503):
        headers["retry-after"] = RETRY_AFTER_S if retry_after_s is None else str(math.ceil(retry_after_s))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(code, message, hint, trace_id), status, headers)


def response_of(exc: LeviBotError, trace_id: str) -> JSONResponse:
    """The answer that one of our errors is."""
    status = next((status for kind, status in STATUS_OF if isinstance(exc, kind)), 500)
    return error_response(status, exc.code, exc.message, exc.hint, trace_id, exc.retry_after_s)


def install_error_handlers(app: FastAPI) -> None:
    """Answer LeviBot's errors, bad requests and unknown routes in the one shape."""

    @app.exception_handler(LeviBotError)
    async def _ours(request: Request, exc: LeviBotError) -> JSONResponse:
        return response_of(exc, trace_id_of(request))

    @app.exception_handler(RequestValidationError)
    async def _bad_request(request: Request, exc: RequestValidationError) -> JSONResponse:
        problem = exc.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = f"{where}: {problem['msg']}."
        return error_response(422, "bad_request", message, "See /docs for the schema.", trace_id_of(request))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, exc: HTTPException) -> JSONResponse:
        code = CODE_OF.get(exc.status_code, "http_error")
        message = f"{exc.detail.rstrip('.')}."
        answer = error_response(exc.status_code, code, message, "See /docs.", trace_id_of(request))
        answer.headers.update(exc.headers or {})
        return answer


def unforeseen(request: Request, exc: Exception) -> JSONResponse:
    """The answer to an error that nobody has foreseen: its trace goes to the log, never to the caller."""
    trace_id = trace_id_of(request)
    log.error("a request failed", path=request.url.path, trace_id=trace_id, exc_info=exc)
    message, hint = "The request failed inside LeviBot.", "Try again; the log has the cause."
    return error_response(500, "internal", message, hint, trace_id)


class LimitBody:
    """Middleware: refuses a body beyond MAX_BODY_BYTES while it arrives, whatever length it announces."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        n_bytes = 0

        async def limited() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is longer than {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, limited if scope["type"] == "http" else receive, send)


class JsonErrors:
    """Middleware of the Serve proxy: turns its own plain-text errors into the one shape.

    A request whose replica dies under it, or that waits too long, is answered by the proxy and not by us.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Held until its body comes: a replica may die between the two.
        start: Message | None = None
        is_answered = is_overload = False

        async def reshape(message: Message) -> None:
            nonlocal start, is_answered, is_overload
            if message["type"] == "http.response.start":
                start = _told_once(message)
            elif is_answered:
                await send(message)
            elif start is not None and not _is_plain_error(start):
                is_answered = True
                await send(start)
                await send(message)
            else:
                is_overload = is_overload or OVERLOAD in message.get("body", b"")

        await self._app(scope, receive, reshape)
        if not is_answered:
            # An error in plain text, or nothing: Serve leaves a request whose replica died to the server.
            status = start["status"] if start is not None and _is_plain_error(start) else 503
            status = 503 if status in (500, 502, 503, 504) else status
            await _send_error(send, status, trace_id_of(Request(scope)), is_overload=is_overload)


def _told_once(start: Message) -> Message:
    """The same without the `x-request-id` that Serve adds to the application's own."""
    names = [name.lower() for name, _ in start.get("headers", [])]
    first = names.index(b"x-request-id") if b"x-request-id" in names else -1
    kept = [
        pair
        for place, pair in enumerate(start.get("headers", []))
        if place == first or names[place] != b"x-request-id"
    ]
    return {**start, "headers": kept}


def _is_plain_error(start: Message) -> bool:
    is_json = any(name == b"content-type" and b"json" in value for name, value in start.get("headers", []))
    return start["status"] >= 400 and not is_json


async def _send_error(send: Send, status: int, trace_id: str, *, is_overload: bool) -> None:
    code, message, hint = {
        404: ("not_found", "No application answers at this path.", "The system may be starting; see /docs."),
        408: ("timeout", "The request took too long.", "Try again."),
        503: ("unavailable", "The part that served this request went away.", "Try again."),
    }.get(status, (CODE_OF.get(status, "http_error"), "The request was refused.", "See /docs."))
    if is_overload:
        code, message = "overloaded", "More requests wait already than can be served in time."
    answer = error_response(status, code, message, hint, trace_id)
    answer.headers.update(SECURITY_HEADERS)
    await send({"type": "http.response.start", "status": status, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body})


def proxy_middlewares() -> list[Middleware]:
    """What Ray Serve's proxy is told to run (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)."""
    return [Middleware(JsonErrors)]

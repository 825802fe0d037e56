"""Every error leaves in one JSON shape: here, and in the proxy for what the application never saw."""

from __future__ import annotations

import json
import uuid
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from levibot.errors import DataError, LeviBotError, NotReady, StoreUnavailable, UnknownSymbol, UsageError

STATUS_OF: tuple[tuple[type[LeviBotError], int], ...] = (
    (UnknownSymbol, 404),
    (DataError, 500),
    (UsageError, 400),
    (NotReady, 503),
    (StoreUnavailable, 503),
)
RETRY_AFTER_S = "1"


def trace_id_of(request: Request) -> str:
    """The caller's own `x-request-id` if it is a sane one, otherwise a new id."""
    given = request.headers.get("x-request-id", "")
    return given if given.isascii() and 0 < len(given) <= 64 and given.isprintable() else uuid.uuid4().hex


def error_body(code: str, message: str, hint: str, trace_id: str) -> dict[str, dict[str, str]]:
    """The one shape of every error."""
    return {"error": {"code": code, "message": message, "hint": hint, "trace_id": trace_id}}


def error_response(status: int, code: str, message: str, hint: str, trace_id: str) -> JSONResponse:
    headers = {"x-request-id": trace_id}
    if status in (408, 429, 503):
        headers["retry-after"] = RETRY_AFTER_S
    return JSONResponse(error_body(code, message, hint, trace_id), status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer LeviBot's errors, bad requests and unknown routes in the one shape."""

    @app.exception_handler(LeviBotError)
    async def _ours(request: Request, exc: LeviBotError) -> JSONResponse:
        status = next((status for kind, status in STATUS_OF if isinstance(exc, kind)), 500)
        return error_response(status, exc.code, exc.message, exc.hint, trace_id_of(request))

    @app.exception_handler(RequestValidationError)
    async def _bad_request(request: Request, exc: RequestValidationError) -> JSONResponse:
        problem = exc.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = f"{where}: {problem['msg']}."
        return error_response(422, "bad_request", message, "See /docs for the schema.", trace_id_of(request))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, exc: HTTPException) -> JSONResponse:
        code = HTTPStatus(exc.status_code).name.lower()
        return error_response(exc.status_code, code, f"{exc.detail}.", "See /docs.", trace_id_of(request))

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, _: Exception) -> JSONResponse:
        # The trace goes to the log, never to the caller.
        return error_response(
            500, "internal", "The request failed inside LeviBot.", "Try again; the log has the cause.",
            trace_id_of(request),
        )  # fmt: skip


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
        start: Message | None = None

        async def reshape(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                is_json = any(k == b"content-type" and b"json" in v for k, v in message.get("headers", []))
                if message["status"] >= 400 and not is_json:
                    start = message
                    return
            elif start is not None:
                if message.get("more_body"):
                    return
                status = 503 if start["status"] in (500, 502, 503, 504) else start["status"]
                await _send_error(send, status)
                return
            await send(message)

        await self._app(scope, receive, reshape)


async def _send_error(send: Send, status: int) -> None:
    what = {
        404: ("not_found", "No application answers at this path.", "The system may be starting; see /docs."),
        408: ("timeout", "The request took too long.", "Try again."),
    }.get(status, ("unavailable", "The part that served this request went away.", "Try again."))
    trace_id = uuid.uuid4().hex
    body = json.dumps(error_body(*what, trace_id)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", RETRY_AFTER_S.encode()),
        (b"x-request-id", trace_id.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def proxy_middlewares() -> list[Middleware]:
    """What Ray Serve's proxy is told to run (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)."""
    return [Middleware(JsonErrors)]

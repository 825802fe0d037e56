"""`POST /ai/predict` of what the replica holds in memory, answered before the framework sees the request.

All else goes on to the route as it came: other paths, versions, bodies that are wrong, signals that are not
held. What the route would say and what is said here are the same bytes but for the age of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import trace_id_of
from deployments.signal_routes import PREDICT, ResponseTexts, key_id_of
from deployments.signal_schemas import PredictRequest
from levibot.serving.answer import Answer

JSON = b"application/json"


class Memory(Protocol):
    """Who holds signals."""

    def held(self, symbol: str, key_id: str) -> Answer | None:
        """The fresh signal for a key that is in memory, None where it must be looked for."""
        ...


@dataclass(frozen=True, slots=True)
class _Route:
    """What the metrics read of the route that answered."""

    path: str


class HotPath:
    """Middleware, behind the gate: answers what it can at once."""

    def __init__(self, app: ASGIApp, memory: Memory) -> None:
        self._app = app
        self._memory = memory
        self._texts = ResponseTexts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PREDICT or not _is_json_post(scope):
            await self._app(scope, receive, send)
            return
        message = await receive()
        request = Request(scope)
        answer = self._answer(message, key_id_of(request)) if _is_whole(message, scope) else None
        if answer is None:
            await self._app(scope, _after(message, receive), send)
            return
        body = self._texts.text(answer, trace_id_of(request))
        scope["route"] = _Route(PREDICT)
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", JSON)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, message: Message, key_id: str) -> Answer | None:
        try:
            asked = PredictRequest.model_validate_json(message.get("body", b""))
        except ValidationError:
            return None
        return None if asked.model_version is not None else self._memory.held(asked.symbol, key_id)


def _is_json_post(scope: Scope) -> bool:
    return scope["method"] == "POST" and (b"content-type", JSON) in scope["headers"]


def _is_whole(message: Message, scope: Scope) -> bool:
    """Whether the body is in this message, whether or not the server knows already that nothing follows."""
    if message["type"] != "http.request":
        return False
    n_bytes = str(len(message.get("body", b""))).encode()
    return not message.get("more_body", False) or (b"content-length", n_bytes) in scope["headers"]


def _after(first: Message, receive: Receive) -> Receive:
    """A `receive` that gives the message which was taken already once more."""
    taken = [first]

    async def again() -> Message:
        return taken.pop() if taken else await receive()

    return again

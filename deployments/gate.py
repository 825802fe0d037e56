"""What each path takes: nothing, a reader's key or an operator's. The gate stands before all routes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import response_of, trace_id_of
from levibot.access.admission import Admission
from levibot.access.api_key import Role
from levibot.errors import LeviBotError

# Whoever keeps the system up asks these when nothing else works, with no secret at hand.
HEALTH = frozenset({"/livez", "/readyz", "/healthz"})
# What is written about the interface; it is in the repository too.
DOCUMENTS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})
STATIC = "/static-offline-docs/"
# Carries its own proof: the signature of its body.
SIGNED = frozenset({"/webhook/signal"})
# What changes what is served, and what shows the queries of the stores.
OPERATORS = frozenset({"/ai/models/activate", "/ops/slow-queries"})


def role_for(path: str) -> Role | None:
    """The role that a path takes, None for what is open to all. A path that nobody knows is guarded."""
    if path in HEALTH or path in DOCUMENTS or path in SIGNED or path.startswith(STATIC):
        return None
    return Role.OPERATOR if path in OPERATORS else Role.READER


class Gate:
    """Middleware: refuses a request without the key that its path takes, or above its key's rate."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (role := role_for(scope["path"])) is not None:
            request = Request(scope)
            try:
                request.state.key_id = await self._admission.admit(request.headers.get("authorization"), role)
            except LeviBotError as exc:
                await response_of(exc, trace_id_of(request))(scope, receive, send)
                return
        await self._app(scope, receive, send)

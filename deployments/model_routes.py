"""The routes of the model registry."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import FastAPI, Request, Response

from deployments.errors import trace_id_of
from deployments.models import Activated, ModelList
from deployments.schemas import (
    ActivateRequest,
    ActivateResponse,
    ActivationEntry,
    ErrorResponse,
    ModelEntry,
    ModelsResponse,
    Version,
)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (404, 408, 409, 413, 422, 500, 503)
}


class ModelsFace(Protocol):
    """What the routes need of the registry; `Models` has it."""

    async def list(self) -> ModelList:
        """Every version and activation."""
        ...

    async def card(self, version: str) -> str:
        """The model card of a version, Markdown."""
        ...

    async def activate(self, version: str, reason: str, instead_of: str | None) -> Activated:
        """Make a version the one that serves."""
        ...


def add_model_routes(http: FastAPI, models: ModelsFace) -> None:
    """`/ai/models/…` over `models`."""

    @http.get("/ai/models/list", responses=ERRORS, summary="The model versions, and what was live when")
    async def listed(request: Request) -> ModelsResponse:
        """Every version with what its manifest says, the one that serves, and the history of activations."""
        known = await models.list()
        return ModelsResponse(
            active=known.active,
            state=known.state,
            models=[
                ModelEntry(
                    version=info.version,
                    is_active=info.version == known.active,
                    published_at=info.published_at,
                    problem=info.problem,
                    metadata=dict(info.metadata),
                )
                for info in known.versions
            ],
            history=[
                ActivationEntry(**{"replaced": None, "decision": None, **entry}) for entry in known.history
            ],
            as_of=known.as_of,
            problem=known.problem,
            trace_id=trace_id_of(request),
        )

    @http.get(
        "/ai/models/{version}/card",
        responses=ERRORS,
        response_class=Response,
        summary="The model card of a version",
    )
    async def card(version: Version) -> Response:
        """What a version says of itself, for people: Markdown, from its manifest."""
        return Response(await models.card(version), media_type="text/markdown")

    @http.post("/ai/models/activate", responses=ERRORS, summary="Make a version the one that serves")
    async def activate(body: ActivateRequest, request: Request) -> ActivateResponse:
        """Checks every file of the version first. The same request again changes nothing; what is missing,
        broken, of another view, or came second, is refused and changes nothing.
        """
        done = await models.activate(body.version, body.reason, body.instead_of)
        return ActivateResponse(
            version=done.version,
            replaced=done.replaced,
            is_changed=done.is_changed,
            trace_id=trace_id_of(request),
        )

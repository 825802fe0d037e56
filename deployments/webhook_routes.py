"""The route of signed webhooks."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Header, Request

from deployments.errors import trace_id_of
from deployments.schemas import ErrorResponse
from deployments.webhook_schemas import WebhookAnswer, WebhookSignal
from deployments.webhooks import Accepted

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 403, 408, 413, 422, 429, 500, 503)
}
Timestamp = Annotated[
    str,
    Header(
        alias="x-levibot-timestamp",
        pattern=r"^[0-9]{1,12}$",
        description="when it was signed, whole seconds since 1970",
        examples=["1714564800"],
    ),
]
Signature = Annotated[
    str,
    Header(
        alias="x-levibot-signature",
        max_length=1000,
        pattern=r"^v1=[0-9a-f]{64}(,\s*v1=[0-9a-f]{64})*$",
        description="`v1=` and the HMAC-SHA256 of `TIMESTAMP.BODY`, hexadecimal",
    ),
]
Key = Annotated[
    str,
    Header(
        alias="idempotency-key",
        pattern=r"^[A-Za-z0-9._:-]{1,128}$",
        description="the same for every repeat of the same webhook",
        examples=["order-4711"],
    ),
]


class WebhooksFace(Protocol):
    """What the route needs; `Webhooks` has it."""

    async def check(self, timestamp: str, signature: str, body: bytes) -> None:
        """Whether it is signed, and may come now."""
        ...

    async def accept(self, signal: WebhookSignal, idempotency_key: str, trace_id: str) -> Accepted:
        """Keep it once."""
        ...


def add_webhook_routes(http: FastAPI, webhooks: WebhooksFace) -> None:
    """`/webhook/…` over `webhooks`."""

    async def signed(request: Request, timestamp: Timestamp, signature: Signature) -> None:
        await webhooks.check(timestamp, signature, await request.body())

    @http.post(
        "/webhook/signal",
        responses=ERRORS,
        status_code=202,
        summary="A signal of somebody else's",
        dependencies=[Depends(signed)],
    )
    async def signal(body: WebhookSignal, idempotency_key: Key, request: Request) -> WebhookAnswer:
        """Takes no API key but a signature. What is accepted is kept and becomes an event `webhook_signal`;
        the same key again gives the same answer and no second event.
        """
        kept = await webhooks.accept(body, idempotency_key, trace_id_of(request))
        return WebhookAnswer(event_id=kept.event_id, is_repeat=kept.is_repeat, trace_id=trace_id_of(request))

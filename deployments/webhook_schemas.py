"""What a webhook says, and what is answered to it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from deployments.schemas import Symbol

Sender = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class WebhookSignal(BaseModel):
    """A signal of somebody else's."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender": "desk-7",
                    "symbol": "BTCUSDT",
                    "as_of": "2024-05-01T12:00:00Z",
                    "score": 0.4,
                    "note": "breakout",
                }
            ]
        },
    )

    sender: Sender = Field(description="who says so; one idempotency key counts once for each")
    symbol: Symbol
    as_of: AwareDatetime = Field(description="what the signal speaks of, ISO 8601 with a time zone")
    score: float = Field(ge=-1, le=1, allow_inf_nan=False, description="from short to long")
    note: str = Field("", max_length=500)


class WebhookAnswer(BaseModel):
    """The webhook is kept, and becomes an event `webhook_signal`."""

    event_id: str = Field(description="the same for a repeat, and in GET /events")
    is_repeat: bool = Field(description="whether it was kept before")
    trace_id: str

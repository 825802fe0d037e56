"""What goes over HTTP, in and out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from levibot.market.symbols import PATTERN

Symbol = Annotated[str, StringConstraints(pattern=PATTERN)]


class PredictRequest(BaseModel):
    """Which symbol to predict."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"symbol": "BTCUSDT"}]})

    symbol: Symbol


class PredictResponse(BaseModel):
    """The signal of a symbol, and how far it may be trusted."""

    symbol: str
    as_of: datetime = Field(description="close of the newest bar that the signal has seen, UTC")
    probability_up: float = Field(ge=0, le=1, description="that the price is higher one day of bars later")
    expected_return: float | None = Field(description="over the same time, in units of its volatility")
    target_position: float = Field(ge=-1, le=1, description="fraction of equity, negative is short")
    model_version: str
    view_version: str = Field(description="hash of the feature definitions")
    feature_age_s: float = Field(ge=0, description="seconds on the market's clock since as_of")
    freshness: str = Field(description="FRESH or STALE")
    source: str = Field(description="simulated, parquet or exchange")
    served_from: str = Field(description="cache, computed or memory")
    trace_id: str


class ErrorBody(BaseModel):
    """What went wrong: a stable code, one sentence, and what to do."""

    code: str
    message: str
    hint: str
    trace_id: str


class ErrorResponse(BaseModel):
    """The one shape of every error."""

    error: ErrorBody


class Liveness(BaseModel):
    """The process answers."""

    status: str
    version: str
    source: str


class Readiness(BaseModel):
    """Whether predictions can be answered correctly now, and if not, why."""

    ready: bool
    reasons: list[str]
    model_version: str | None
    market_time: datetime
    source: str

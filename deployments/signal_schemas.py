"""What the routes of signals take and answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deployments.schemas import BlendEntry, ErrorBody, Symbol, Version
from levibot.serving.arms import Arm

MOST_SYMBOLS = 100


def _once_each(symbols: list[str]) -> list[str]:
    twice = [symbol for symbol in symbols if symbols.count(symbol) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is asked for twice.")
    return symbols


class PredictRequest(BaseModel):
    """Which symbol to predict."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"symbol": "BTCUSDT"}]})

    symbol: Symbol
    model_version: Version | None = Field(
        default=None,
        description="what this one says, in place of the one that serves; it is never written as a signal",
    )


class BatchRequest(BaseModel):
    """Which symbols to predict."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"symbols": ["BTCUSDT", "ETHUSDT"]}]}
    )

    symbols: Annotated[list[Symbol], AfterValidator(_once_each)] = Field(
        min_length=1,
        max_length=MOST_SYMBOLS,
        description="each once",
        json_schema_extra={"uniqueItems": True},
    )


class SignalEntry(BaseModel):
    """What the ensemble says of a symbol."""

    symbol: str
    as_of: datetime = Field(description="close of the newest bar that the signal has seen, UTC")
    probability_up: float = Field(ge=0, le=1, description="that the price is higher one day of bars later")
    expected_return: float | None = Field(description="over the same time, in units of its volatility")
    target_position: float = Field(ge=-1, le=1, description="fraction of equity, negative is short")
    model_version: str
    view_version: str = Field(description="hash of the feature definitions")
    source: str = Field(description="simulated, parquet or exchange")
    blend: BlendEntry | None = Field(description="null of a signal that was made before members were told")


class Trust(BaseModel):
    """How far a signal may be trusted now."""

    feature_age_s: float = Field(ge=0, description="seconds on the market's clock since as_of")
    freshness: str = Field(description="FRESH or STALE")
    served_from: str = Field(
        description="l1 (read from Redis a moment ago), cache (read for this answer), computed, or memory "
        "(the newest that is known, where nothing newer can be had)"
    )
    problem: str = Field(description="why the signal is not newer, or not the canary's, else empty")
    arm: Arm | None = Field(
        description="whose signal it is: champion, of the version that serves, or canary; null of a version "
        "that was asked for by its name"
    )
    trace_id: str


class PredictResponse(Trust, SignalEntry):
    """The signal of a symbol, and how far it may be trusted."""


class BatchEntry(BaseModel):
    """One symbol of many: its signal, or why there is none."""

    symbol: str
    signal: PredictResponse | None
    error: ErrorBody | None


class BatchResponse(BaseModel):
    """Every symbol that was asked for, in that order."""

    answers: list[BatchEntry]
    n_failed: int = Field(description="how many have an error and no signal")
    trace_id: str

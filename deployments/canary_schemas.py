"""What the route of the canary answers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class ArmsEntry(BaseModel):
    """Both arms, and canary less champion. What cannot be told yet is null."""

    n: int = Field(description="looks at the difference so far")
    champion: float | None
    canary: float | None
    difference: float | None = Field(description="mean of canary less champion")
    low: float | None = Field(description="bounds that hold over all looks together, 95 %; null before")
    high: float | None = Field(
        description="first one that may decide: 168 bars, or 20 closes a horizon apart"
    )


class LimitsEntry(BaseModel):
    """Beyond any one of these it is rolled back."""

    error_share: float
    latency_s: float
    drawdown: float
    worse_by_bps: float
    deadline_s: float


class CanaryEntry(BaseModel):
    """The canary that was set last."""

    version: str
    attempt: int
    champion: str | None = Field(description="the version that it was last held against")
    state: Literal["running", "ended", "rolled_back"]
    share: float = Field(ge=0, le=1, description="of the callers, now: 0 where it does not run")
    share_set: float = Field(ge=0, le=1, description="of the callers, as an operator set it last")
    began_at: datetime = Field(description="close of the bar at which it began, UTC")
    ended_at: datetime | None
    ended_why: str | None = Field(
        description="errors, latency, drawdown, net_pnl or calibration: the limit that was broken; "
        "configuration or activated: an operator's doing; null while it runs"
    )
    numbers: dict[str, float | None] | None = Field(description="of the limit that was broken")
    limits: LimitsEntry
    bars: dict[str, int] = Field(description="that it was asked of, by outcome: answered, incomplete, failed")
    error_share: float | None = Field(description="of its newest bars, at most 100")
    latency_p95_s: float | None = Field(description="of the same")
    net_pnl: ArmsEntry = Field(
        description="of each arm's account since it began, as a share of its first equity; the difference "
        "and its bounds are of a bar, in bps of equity"
    )
    verdict: Literal["undecided", "canary_better", "champion_better"] = Field(
        description="which arm certainly earns more a bar"
    )
    drawdown: float = Field(description="largest loss of its account from its highest equity, 0 to 1")
    priced_to: datetime | None = Field(description="close of the newest bar that both are priced at, UTC")
    brier: ArmsEntry = Field(description="mean Brier score of probability_up, 0 is best")


class CanaryResponse(BaseModel):
    """How the canary does beside the champion."""

    canary: CanaryEntry | None = Field(description="null where there never was one")
    market_time: datetime = Field(description="the market's now, UTC")
    problem: str = Field(description="why this is not of now, else empty")
    source: str = Field(description="simulated, parquet or exchange")
    trace_id: str

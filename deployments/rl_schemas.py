"""What the route of the policy takes and answers."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from deployments.schemas import Symbol


class PolicyRequest(BaseModel):
    """Which symbol the policy is asked about."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"symbol": "BTCUSDT"}]})

    symbol: Symbol


class PolicyResponse(BaseModel):
    """What the policy in shadow wants of a symbol. It is no part of the signal."""

    symbol: str
    as_of: datetime = Field(description="close of the newest bar that the decision has seen, UTC")
    position: float = Field(ge=-1, le=1, description="fraction of its account's equity, negative is short")
    action: float = Field(description="0 short, 1 flat, 2 long; of a continuous policy the position itself")
    probabilities: dict[str, float] = Field(description="of each action; empty of a continuous policy")
    account_equity: float = Field(description="of its shadow account at as_of, net of costs; 1e6 at first")
    feature_age_s: float = Field(ge=0, description="seconds on the market's clock since as_of")
    freshness: str = Field(description="FRESH or STALE")
    policy_version: str
    view_version: str = Field(description="hash of the feature definitions")
    source: str = Field(description="simulated, parquet or exchange")
    trace_id: str

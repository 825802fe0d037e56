"""What /healthz says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from levibot.monitoring.health import State

Status = Literal["ok", "degraded", "down"]


class DependencyEntry(BaseModel):
    """One dependency of this replica, as it was when it was last looked at."""

    name: str
    is_critical: bool = Field(description="without it no new signal comes to be")
    state: State
    latency_ms: float | None = Field(description="of the last look; null where it brought no answer")
    age_s: float | None = Field(description="since the last look; null before the first")
    circuit: str = Field(description="closed, half-opened or opened: the worst on the way there")
    fallback: str = Field(description="what happens without it")


class HealthResponse(BaseModel):
    """All dependencies, and what they come to."""

    status: Status = Field(
        description="degraded: something is not up, and signals go on; down: something critical is down"
    )
    api_keys: Literal["on", "off"] = Field(description="off: anybody may ask everything")
    dependencies: list[DependencyEntry]
    version: str
    source: str = Field(description="simulated, parquet or exchange")

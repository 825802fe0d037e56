"""What goes over HTTP, in and out."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from levibot.market.symbols import PATTERN
from levibot.stores.reading import Freshness

Symbol = Annotated[str, StringConstraints(pattern=PATTERN)]
EventType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^v[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$")]
# A form sends an empty value for what it leaves out.
NoneIfEmpty = BeforeValidator(lambda value: None if value == "" else value)


def may_be_empty(schema: dict[str, Any]) -> None:
    """Tell the schema of a field that `NoneIfEmpty` reads."""
    schema["anyOf"].append({"type": "string", "maxLength": 0})


class BlendEntry(BaseModel):
    """How the members' opinions became the position."""

    model_config = ConfigDict(from_attributes=True)

    opinions: dict[str, float] = Field(description="of each member, -1 to 1")
    weights: dict[str, float] = Field(
        description="of each member that answered, sum 1, that made the position"
    )
    positions: dict[str, float] = Field(
        description="what each member alone, and each way of weighing, would hold before the no-trade band"
    )
    no_trade_band: float = Field(description="fraction of equity; a position this near its target stays")
    route: str = Field(description="router or ensemble: what gave the weights")
    abstained: str = Field(description="why the router did not give them, else empty")
    regime: dict[str, float] = Field(description="probability of each, empty where none is known")
    weights_from: str = Field(description="redis, memory, prior or configuration")
    weights_as_of: date | None = Field(description="last day that they have learned from, null: from none")
    weights_age_s: float | None = Field(description="market time from the end of that day to as_of")
    absent: dict[str, str] = Field(
        description="members that did not answer, and why: not_loaded, deadline_passed, crashed, failed, "
        "overloaded or circuit_open; what they weigh went to the others"
    )


class EnsembleRequest(BaseModel):
    """How much of the past to show."""

    model_config = ConfigDict(extra="forbid")

    history_days: int = Field(0, ge=0, le=1000, description="newest days whose weights are shown")


class WeightsOfDay(BaseModel):
    """The weights for the decisions after a day."""

    as_of: date | None = Field(description="last day that they have learned from, null: from none yet")
    model_version: str
    basis: str = Field(description="what they began with: prior or walk-forward")
    weights: dict[str, float] = Field(description="of the ensemble, by member, sum 1")
    routed: dict[str, float] = Field(description="leaned by the router; the ensemble's where it abstained")
    route: str = Field(description="router or ensemble: which of the two positions are taken under")
    abstained: str = Field(description="why the router did not lean them, else empty")
    regime: dict[str, float] = Field(description="at the end of that day; empty where none is known")


class ShadowAccount(BaseModel):
    """What a member, or a way of weighing, has earned on paper, net of costs."""

    net_pnl: float = Field(description="since the account was opened, as a share of what it began with")
    days: int
    by_regime: dict[str, float] = Field(description="the same, by the regime in which each day began")


class EnsembleResponse(BaseModel):
    """What each member weighs, since when, and why."""

    held: WeightsOfDay = Field(description="the weights of the next decision")
    prior: dict[str, float] = Field(description="what the members weigh before anything is known")
    age_s: float | None = Field(description="market time since the day of `held` was over")
    weights_from: str = Field(description="redis, or memory: they were read before")
    history: list[WeightsOfDay] = Field(description="newest first, never revised")
    accounts: dict[str, ShadowAccount] = Field(description="by member and way of weighing")
    market_time: datetime = Field(description="the market's now, UTC")
    problem: str = Field(description="why some of this is not of now, else empty")
    source: str = Field(description="simulated, parquet or exchange")
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


class FeaturesRequest(BaseModel):
    """What the on-demand features are to be computed for."""

    model_config = ConfigDict(extra="forbid")

    order_notional: Annotated[float | None, NoneIfEmpty] = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="size of an order in quote currency",
        json_schema_extra=may_be_empty,
    )


class FeatureEntry(BaseModel):
    """One value, and how far it may be trusted."""

    value: float | None = Field(description="null where it is missing")
    status: Freshness
    age_s: float | None = Field(description="seconds on the market's clock since what it is made of")


class FeaturesResponse(BaseModel):
    """The features of a symbol, all of one instant."""

    symbol: str
    status: Freshness = Field(description="of the oldest value of the vector")
    age_s: float | None = Field(description="of the oldest value, on the market's clock")
    event_time: datetime | None = Field(description="close of the newest bar that the vector has seen, UTC")
    market_time: datetime = Field(description="the market's now, UTC")
    view: str
    view_version: str = Field(description="hash of the feature definitions")
    features: dict[str, FeatureEntry] = Field(description="the vector that models are served with")
    on_demand: dict[str, FeatureEntry] = Field(description="computed for this request from the newest bars")
    problem: str = Field(description="why features of the request are missing or old, else empty")
    source: str = Field(description="simulated, parquet or exchange")
    trace_id: str


class EventsRequest(BaseModel):
    """Which events to show. What is empty or left out is not filtered by."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000)
    event_type: Annotated[EventType | None, NoneIfEmpty] = Field(
        None, description="such as signal or bars", json_schema_extra=may_be_empty
    )
    symbol: Annotated[Symbol | None, NoneIfEmpty] = Field(None, json_schema_extra=may_be_empty)
    since: Annotated[str | None, NoneIfEmpty] = Field(
        None, max_length=64, description="the oldest to show, ISO 8601 with a time zone: 2024-05-01T12:00:00Z"
    )
    after: Annotated[str | None, NoneIfEmpty] = Field(
        None, max_length=1024, description="next_cursor of the page before"
    )


class EventEntry(BaseModel):
    """One thing that happened."""

    event_id: str
    event_type: str
    symbol: str = Field(description="empty: of no single symbol")
    ts: datetime = Field(description="the market's time, UTC")
    trace_id: str
    payload: dict[str, Any]


class EventsResponse(BaseModel):
    """A page of the events, newest first."""

    events: list[EventEntry]
    next_cursor: str | None = Field(description="give it as `after` for the next page; null on the last one")
    trace_id: str


class QueryCostEntry(BaseModel):
    """All the calls of one query since its process began."""

    process: str
    store: str
    query: str
    calls: int
    failed: int
    slow: int = Field(description="calls that took longer than the limit, and were logged")
    total_s: float
    longest_s: float


class SlowQueriesResponse(BaseModel):
    """The queries that took most time altogether, most first."""

    queries: list[QueryCostEntry]
    missing: dict[str, str] = Field(description="processes that did not answer, and why")
    trace_id: str


class ModelEntry(BaseModel):
    """One version of the registry."""

    version: str
    is_active: bool
    published_at: datetime | None = Field(description="UTC, null where the manifest cannot be trusted")
    problem: str = Field(description="why the version cannot be used, else empty")
    metadata: dict[str, Any] = Field(
        description="what model.json says: window, data, view, features, scores …"
    )


class ActivationEntry(BaseModel):
    """What went live, when and why; of the version that served already: it was confirmed."""

    version: str
    replaced: str | None
    at: datetime
    reason: str
    decision: dict[str, Any] | None = Field(description="the numbers of the rule that decided, null by hand")


class ModelsResponse(BaseModel):
    """The versions in the order of their names, and what was live when."""

    active: str | None = Field(description="the version that serves, null before the first activation")
    state: str = Field(description="names the newest activation: give it as `instead_of` of an activation")
    models: list[ModelEntry]
    history: list[ActivationEntry] = Field(description="newest first")
    as_of: datetime = Field(description="when the registry said so, UTC")
    problem: str = Field(description="why this is not what the registry holds now, else empty")
    trace_id: str


class ActivateRequest(BaseModel):
    """Which version is to serve, and why."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "v1.2.3", "reason": "back to the last one"}]},
    )

    version: Version = Field(description="as `GET /ai/models/list` names it")
    reason: str = Field(min_length=1, max_length=500, description="kept in the history")
    instead_of: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="`state` of the list that the choice was made on; null: whatever serves now",
    )


class ActivateResponse(BaseModel):
    """What serves now."""

    version: str
    replaced: str | None = Field(description="what served before")
    is_changed: bool = Field(description="false where it served already")
    trace_id: str


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

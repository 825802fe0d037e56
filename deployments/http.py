"""Routes, metrics and schemas of the HTTP face. What they answer comes from an `Api`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from deployments.canary_routes import CanariesFace, add_canary_routes
from deployments.edge import Edge, OnceEach, WithinTime
from deployments.ensemble_routes import EnsembleFace, add_ensemble_routes
from deployments.errors import LimitBody, install_error_handlers, trace_id_of
from deployments.gate import Gate
from deployments.health_routes import HealthFace, add_health_routes
from deployments.hot_path import HotPath
from deployments.model_routes import ModelsFace, add_model_routes
from deployments.openapi import describe
from deployments.rl_routes import PoliciesFace, add_rl_routes
from deployments.schemas import (
    ErrorResponse,
    EventEntry,
    EventsRequest,
    EventsResponse,
    FeatureEntry,
    FeaturesRequest,
    FeaturesResponse,
    QueryCostEntry,
    SlowQueriesResponse,
    Symbol,
)
from deployments.signal_routes import SignalsFace, add_signal_routes
from deployments.webhook_routes import WebhooksFace, add_webhook_routes
from levibot import __version__
from levibot.errors import UsageError
from levibot.serving.request_features import SymbolFeatures
from levibot.stores.events import EventCursor, EventPage, EventQuery
from levibot.stores.reading import ValueReading
from levibot.telemetry.exposition import Family, exposition
from levibot.telemetry.metrics import FEATURE_STALENESS

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 422, 500, 503)
}


class Face(HealthFace, SignalsFace, Protocol):
    """What the routes need to know."""

    @property
    def webhooks(self) -> WebhooksFace:
        """Who takes webhooks."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """What has to run for as long as the application serves."""
        ...

    @property
    def models(self) -> ModelsFace:
        """The model versions."""
        ...

    @property
    def ensemble(self) -> EnsembleFace:
        """The weights of the ensemble."""
        ...

    @property
    def canaries(self) -> CanariesFace:
        """The canary."""
        ...

    @property
    def policies(self) -> PoliciesFace:
        """The policy in shadow."""
        ...

    async def feature_ages(self) -> dict[str, float]:
        """Seconds since the newest features of each symbol; NaN where there are none."""
        ...

    async def features(self, symbol: str, order_notional: float | None) -> SymbolFeatures:
        """What is known of a symbol now, and of an order. Raises UnknownSymbol or StoreError."""
        ...

    async def events(self, query: EventQuery) -> EventPage:
        """A page of the events. Raises StoreUnavailable when the event log does not answer."""
        ...

    async def metrics(self) -> dict[str, list[Family]]:
        """The metrics of the other processes; one that does not answer has no entry."""
        ...

    async def slow_queries(self) -> tuple[list[QueryCostEntry], dict[str, str]]:
        """The queries that took most time, and why a process said nothing of its own."""
        ...


def build_http(face: Face) -> FastAPI:
    """The ASGI application over `face`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with face.running():
            yield

    # The documentation page carries its own scripts: it opens where there is no network.
    http = FastAPIOffline(
        redoc_url=None,
        lifespan=lifespan,
        title="LeviBot",
        version=__version__,
        description=(
            "Trading signals with honest time: every answer says how old it is and where it comes from.\n\n"
            "A caller that stops waiting says so in the header `x-request-timeout`, in seconds from 0.01 to "
            "30: what is done for it ends then, with a 408.\n\n"
            f"**source: {face.source}**"
        ),
    )
    install_error_handlers(http)
    # The last one is the outermost.
    http.add_middleware(LimitBody)
    http.add_middleware(OnceEach)
    http.add_middleware(HotPath, memory=face)
    http.add_middleware(Gate, admission=face.admission)
    http.add_middleware(WithinTime)
    http.add_middleware(Edge)

    add_signal_routes(http, face)
    add_health_routes(http, face)
    add_model_routes(http, face.models)
    add_canary_routes(http, face.canaries, face.source)
    add_ensemble_routes(http, face.ensemble, face.source)
    add_rl_routes(http, face.policies, face.source)
    add_webhook_routes(http, face.webhooks)

    @http.get("/features/{symbol}", responses=ERRORS, summary="The features of a symbol")
    async def features(
        symbol: Symbol, asked: Annotated[FeaturesRequest, Query()], request: Request
    ) -> FeaturesResponse:
        """The newest vector, every value with its status and age, and the features of this very request."""
        known = await face.features(symbol, asked.order_notional)
        reading = known.vector
        return FeaturesResponse(
            symbol=symbol,
            status=reading.freshness,
            age_s=reading.age_s,
            event_time=reading.event_time,
            market_time=known.market_time,
            view=known.view,
            view_version=known.view_version,
            features={name: _feature_entry(reading.value(name)) for name in known.names},
            on_demand={name: _feature_entry(value) for name, value in known.requested.values.items()},
            problem=known.requested.problem,
            source=face.source,
            trace_id=trace_id_of(request),
        )

    @http.get(
        "/events",
        response_model=EventsResponse,
        responses=ERRORS,
        summary="What happened, newest first",
    )
    async def events(asked: Annotated[EventsRequest, Query()], request: Request) -> Response:
        """Events of a type, a symbol, since an instant. Follow `next_cursor` for the older ones: no event is
        shown twice or left out, whatever happens meanwhile.
        """
        page = await face.events(_event_query(asked))
        answer = EventsResponse(
            events=[
                EventEntry(
                    event_id=event.event_id,
                    event_type=event.event_type,
                    symbol=event.symbol,
                    ts=event.ts,
                    trace_id=event.trace_id,
                    payload=dict(event.payload),
                )
                for event in page.events
            ],
            next_cursor=None if page.next_cursor is None else page.next_cursor.text(),
            trace_id=trace_id_of(request),
        )
        # Written at once: of a thousand events FastAPI's own way is a second pass over all of them.
        return Response(answer.model_dump_json(), media_type="application/json")

    @http.get("/ops/slow-queries", responses=ERRORS, summary="Which queries took most time")
    async def slow_queries(request: Request) -> SlowQueriesResponse:
        """The ten queries that took most time altogether, over all processes that keep count."""
        queries, missing = await face.slow_queries()
        return SlowQueriesResponse(queries=queries, missing=missing, trace_id=trace_id_of(request))

    @http.get("/metrics", summary="Prometheus metrics of all processes", response_class=Response)
    async def metrics() -> Response:
        """In Prometheus' text format: this replica's, and the other processes' with the label `process`."""
        for symbol, age_s in (await face.feature_ages()).items():
            FEATURE_STALENESS.labels(symbol).set(age_s)
        return Response(exposition(await face.metrics()), media_type=CONTENT_TYPE_LATEST)

    return describe(http)


def _feature_entry(value: ValueReading) -> FeatureEntry:
    return FeatureEntry(value=value.value, status=value.freshness, age_s=value.age_s)


def _event_query(asked: EventsRequest) -> EventQuery:
    """Raises UsageError on an instant or a cursor that is none."""
    return EventQuery(
        limit=asked.limit,
        event_type=asked.event_type,
        symbol=asked.symbol,
        since=None if asked.since is None else _instant("since", asked.since),
        after=None if asked.after is None else EventCursor.parse(asked.after),
    )


def _instant(name: str, text: str) -> datetime:
    hint = "Write it as 2024-05-01T12:00:00Z; the + of an offset is %2B in a URL."
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"{name} is {text!r}, which is not an instant.", hint=hint) from exc
    if instant.tzinfo is None:
        raise UsageError(f"{name} is {text}, without a time zone.", hint=hint)
    return instant

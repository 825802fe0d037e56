"""The HTTP face. A prediction is a cache read; the graph behind it is walked only when the cache has none."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.errors import install_error_handlers, trace_id_of
from deployments.router import Routed
from deployments.schemas import ErrorResponse, Liveness, PredictRequest, PredictResponse, Readiness
from levibot import __version__
from levibot.errors import LeviBotError, NotReady, StoreError, StoreUnavailable, UnknownSymbol
from levibot.features.views import CORE
from levibot.resilience.guard import Guard
from levibot.serving.answer import AnswerPolicy
from levibot.settings import Settings
from levibot.stores.connect import open_online
from levibot.stores.online import Freshness, Signal
from levibot.telemetry import metrics
from levibot.telemetry.logging import configure_logging

ROUTER_TIMEOUT_S = 8.0
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (404, 408, 422, 500, 503)
}

http = FastAPI(
    title="LeviBot",
    version=__version__,
    description="Trading signals with honest time: every answer says how old it is and where it comes from.",
)
install_error_handlers(http)


@http.middleware("http")
async def _measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    started = time.perf_counter()
    response = await call_next(request)
    route = getattr(request.scope.get("route"), "path", "unknown")
    metrics.HTTP_REQUESTS.labels(route, request.method, str(response.status_code)).inc()
    metrics.HTTP_SECONDS.labels(route).observe(time.perf_counter() - started)
    return response


class Api:
    """One replica of the face. Its fallbacks: Redis, then the router, then what it answered last."""

    def __init__(self, router: DeploymentHandle[Any]) -> None:
        settings = Settings.load()
        configure_logging(settings.log_level, "api")
        self._settings = settings
        self._router = router
        self._clock = settings.clock()
        self._online = open_online(settings, CORE.version)
        self._policy = AnswerPolicy(settings.interval, settings.fresh_bars, settings.usable_bars)
        self._last: dict[str, Signal] = {}
        self._read_cache = Guard(
            "redis",
            timeout_s=settings.store_timeout_s,
            attempts=2,
            transient=(StoreUnavailable,),
            unavailable=StoreUnavailable,
        )
        self._ask_router = Guard(
            "router",
            timeout_s=ROUTER_TIMEOUT_S,
            attempts=2,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )

    @http.post("/ai/predict", responses=ERRORS, summary="The signal of a symbol")
    async def predict(self, body: PredictRequest, request: Request, response: Response) -> PredictResponse:
        """The newest signal: probability up, target position, and how old and how fresh it is."""
        trace_id = trace_id_of(request)
        response.headers["x-request-id"] = trace_id
        if body.symbol not in self._settings.symbols:
            served = ", ".join(self._settings.symbols)
            raise UnknownSymbol(f"{body.symbol} is not served.", hint=f"Served are: {served}.")
        signal, served_from = await self._find(body.symbol)
        answer = self._policy.answer(signal, self._clock.now(), served_from)
        return PredictResponse(
            symbol=signal.symbol,
            as_of=signal.as_of,
            probability_up=signal.probability_up,
            expected_return=signal.expected_return,
            target_position=signal.target_position,
            model_version=signal.model_version,
            view_version=signal.view_version,
            feature_age_s=answer.feature_age_s,
            freshness=answer.freshness,
            source=signal.source,
            served_from=served_from,
            trace_id=trace_id,
        )

    @http.get("/livez", summary="Is the process alive")
    async def livez(self) -> Liveness:
        """The process answers; nothing else is looked at."""
        return Liveness(status="alive", version=__version__, source=self._settings.source)

    @http.get("/readyz", responses={503: {"model": Readiness}}, summary="Can it answer correctly now")
    async def readyz(self) -> JSONResponse:
        """Ready when at least one symbol has a fresh signal; every symbol without one is named."""
        reasons: list[str] = []
        versions: set[str] = set()
        try:
            for symbol in self._settings.symbols:
                signal = await self._read_cache.call(self._online.read_signal, symbol)
                if signal is None:
                    reasons.append(f"{symbol} has no signal yet.")
                elif not self._policy.is_fresh(signal, self._clock.now()):
                    reasons.append(f"{symbol} has no signal since {signal.as_of.isoformat()}.")
                else:
                    versions.add(signal.model_version)
        except StoreError as exc:
            reasons, versions = [str(exc)], set()
        state = Readiness(
            ready=bool(versions),
            reasons=reasons,
            model_version=max(versions, default=None),
            market_time=self._clock.now(),
            source=self._settings.source,
        )
        return JSONResponse(state.model_dump(mode="json"), 200 if state.ready else 503)

    @http.get("/metrics", summary="Prometheus metrics of this replica", response_class=Response)
    async def metrics(self) -> Response:
        """In Prometheus' text format."""
        try:
            for reading in (await self._read_cache.call(self._online.read, self._settings.symbols)).values():
                if reading.freshness is not Freshness.MISSING and reading.age_s is not None:
                    metrics.FEATURE_STALENESS.labels(reading.symbol).set(reading.age_s)
                else:
                    # A gauge that keeps its last value would say fresh for ever.
                    metrics.FEATURE_STALENESS.labels(reading.symbol).set(float("nan"))
        except StoreError:
            metrics.FEATURE_STALENESS.clear()
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    async def _find(self, symbol: str) -> tuple[Signal, str]:
        """The newest signal there is, and where it was found. Raises NotReady when there is none at all."""
        cached: Signal | None = None
        try:
            cached = await self._read_cache.call(self._online.read_signal, symbol)
        except StoreError:
            cached = self._last.get(symbol)
        else:
            if cached is not None and self._policy.is_fresh(cached, self._clock.now()):
                self._last[symbol] = cached
                return cached, "cache"
        routed = await self._route(symbol)
        found = max(
            (s for s in (routed.signal, cached, self._last.get(symbol)) if s is not None),
            key=lambda s: s.as_of,
            default=None,
        )
        if found is None:
            raise NotReady(
                routed.problem or f"{symbol} has no signal yet.", hint=routed.hint or "See /readyz."
            )
        self._last[symbol] = found
        return found, routed.served_from if found is routed.signal else "memory"

    async def _route(self, symbol: str) -> Routed:
        try:
            return await self._ask_router.call(self._remote_signal, symbol)
        except (LeviBotError, RayError, RayServeException) as exc:
            return Routed(None, "memory", f"The router does not answer: {exc}", "Try again.")

    async def _remote_signal(self, symbol: str) -> Routed:
        routed: Routed = await self._router.signal.remote(symbol)
        return routed

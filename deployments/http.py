"""Routes, metrics and schemas of the HTTP face. What they answer comes from an `Api`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from deployments.errors import RETRY_AFTER_S, LimitBody, install_error_handlers, trace_id_of, unforeseen
from deployments.schemas import ErrorResponse, Liveness, PredictRequest, PredictResponse, Readiness
from levibot import __version__
from levibot.serving.answer import Answer
from levibot.telemetry.metrics import FEATURE_STALENESS, HTTP_REQUESTS, HTTP_SECONDS

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 422, 500, 503)
}


class Face(Protocol):
    """What the routes need to know."""

    @property
    def source(self) -> str:
        """simulated, parquet or exchange."""
        ...

    async def predict(self, symbol: str) -> Answer:
        """The newest usable signal. Raises UnknownSymbol or NotReady."""
        ...

    async def readiness(self) -> Readiness:
        """Whether predictions can be answered correctly now."""
        ...

    async def feature_ages(self) -> dict[str, float]:
        """Seconds since the newest features of each symbol; NaN where there are none."""
        ...


def build_http(face: Face) -> FastAPI:
    """The ASGI application over `face`."""
    # The documentation page carries its own scripts: it opens where there is no network.
    http = FastAPIOffline(
        redoc_url=None,
        title="LeviBot",
        version=__version__,
        description=(
            "Trading signals with honest time: every answer says how old it is and where it comes from.\n\n"
            f"**source: {face.source}**"
        ),
    )
    install_error_handlers(http)
    http.add_middleware(LimitBody)

    @http.middleware("http")
    async def measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        try:
            response = await call_next(request)
        except Exception as exc:  # noqa: BLE001 - the edge: whatever it is, it is logged here, once
            response = unforeseen(request, exc)
        response.headers["x-request-id"] = trace_id_of(request)
        route = getattr(request.scope.get("route"), "path", "unknown")
        HTTP_REQUESTS.labels(route, request.method, str(response.status_code)).inc()
        HTTP_SECONDS.labels(route).observe(time.perf_counter() - started)
        return response

    @http.post("/ai/predict", responses=ERRORS, summary="The signal of a symbol")
    async def predict(body: PredictRequest, request: Request) -> PredictResponse:
        """The newest signal: probability up, target position, and how old and how fresh it is."""
        answer = await face.predict(body.symbol)
        signal = answer.signal
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
            served_from=answer.served_from,
            trace_id=trace_id_of(request),
        )

    @http.get("/livez", summary="Is the process alive")
    async def livez() -> Liveness:
        """The process answers; nothing else is looked at."""
        return Liveness(status="alive", version=__version__, source=face.source)

    @http.get(
        "/readyz",
        response_model=Readiness,
        responses={503: {"model": Readiness}},
        summary="Can it answer correctly now",
    )
    async def readyz() -> JSONResponse:
        """Ready when at least one symbol has a fresh signal; every symbol without one is named."""
        state = await face.readiness()
        headers = None if state.ready else {"retry-after": RETRY_AFTER_S}
        return JSONResponse(state.model_dump(mode="json"), 200 if state.ready else 503, headers)

    @http.get("/metrics", summary="Prometheus metrics of this replica", response_class=Response)
    async def metrics() -> Response:
        """In Prometheus' text format."""
        for symbol, age_s in (await face.feature_ages()).items():
            FEATURE_STALENESS.labels(symbol).set(age_s)
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return http

"""The routes of those who keep the system up: they wait for nothing, and take no key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from deployments.errors import RETRY_AFTER_S
from deployments.health_schemas import DependencyEntry, HealthResponse, Status
from deployments.schemas import Liveness, Readiness
from levibot import __version__
from levibot.access.admission import Admission
from levibot.monitoring.health import Health, State


class HealthFace(Protocol):
    """What these routes need to know."""

    @property
    def source(self) -> str:
        """simulated, parquet or exchange."""
        ...

    @property
    def admission(self) -> Admission:
        """Who is let in."""
        ...

    async def readiness(self) -> Readiness:
        """Whether predictions can be answered correctly now."""
        ...

    def health(self) -> list[Health]:
        """Every dependency as it was when it was last looked at."""
        ...


def add_health_routes(http: FastAPI, face: HealthFace) -> None:
    """`/livez`, `/readyz` and `/healthz` over `face`."""

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
        """Ready when the features are warm and one symbol at least has a fresh signal; names what lacks."""
        state = await face.readiness()
        headers = None if state.ready else {"retry-after": RETRY_AFTER_S}
        return JSONResponse(state.model_dump(mode="json"), 200 if state.ready else 503, headers)

    @http.get(
        "/healthz",
        response_model=HealthResponse,
        responses={503: {"model": HealthResponse}},
        summary="How is everything that it depends on",
    )
    async def healthz() -> JSONResponse:
        """Each dependency with its state, as the background has last seen it: the answer waits for none. 200
        while no critical one is down, also when it says degraded.
        """
        known = face.health()
        status = overall(known)
        answer = HealthResponse(
            status=status,
            api_keys="on" if face.admission.is_on else "off",
            dependencies=[
                DependencyEntry(
                    name=one.dependency.name,
                    is_critical=one.dependency.is_critical,
                    state=one.state,
                    latency_ms=one.latency_ms,
                    age_s=one.age_s,
                    circuit=one.circuit,
                    fallback=one.dependency.fallback,
                )
                for one in known
            ],
            version=__version__,
            source=face.source,
        )
        is_down = status == "down"
        headers = {"retry-after": RETRY_AFTER_S} if is_down else None
        return JSONResponse(answer.model_dump(mode="json"), 503 if is_down else 200, headers)


def overall(known: Sequence[Health]) -> Status:
    """What the states come to."""
    if any(one.dependency.is_critical and one.state is State.DOWN for one in known):
        return "down"
    return "ok" if all(one.state is State.UP for one in known) else "degraded"

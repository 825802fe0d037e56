"""The route of the canary."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import FastAPI, Request

from deployments.canaries import CanaryState
from deployments.canary_schemas import ArmsEntry, CanaryEntry, CanaryResponse, LimitsEntry
from deployments.errors import trace_id_of
from deployments.schemas import ErrorResponse
from levibot.serving.canary_report import CanaryReport, Comparison

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (408, 413, 422, 500, 503)
}


class CanariesFace(Protocol):
    """What the route needs to know; `Canaries` has it."""

    async def canary(self) -> CanaryState:
        """The canary that was set last. Raises NotReady where it cannot be told."""
        ...


def add_canary_routes(http: FastAPI, canaries: CanariesFace, source: str) -> None:
    """`/ai/models/canary` over `canaries`."""

    @http.get("/ai/models/canary", responses=ERRORS, summary="How the canary does beside the champion")
    async def canary(request: Request) -> CanaryResponse:
        """Both arms' net PnL in shadow with a sequential test of their difference, errors, latency and
        calibration of the version that a share of the keys is answered with; and whether it was rolled back.
        """
        state = await canaries.canary()
        return CanaryResponse(
            canary=None if state.report is None else _entry(state.report),
            market_time=state.market_time,
            problem=state.problem,
            source=source,
            trace_id=trace_id_of(request),
        )


def _entry(report: CanaryReport) -> CanaryEntry:
    run = report.run
    is_running = run.ended_at is None
    return CanaryEntry(
        version=run.setting.version,
        attempt=run.setting.attempt,
        champion=report.champion,
        state="running" if is_running else "rolled_back" if run.is_rolled_back else "ended",
        share=run.setting.share if is_running else 0.0,
        share_set=run.setting.share,
        began_at=run.began_at,
        ended_at=run.ended_at,
        ended_why=run.ended_why,
        numbers=None if run.numbers is None else {name: _known(value) for name, value in run.numbers.items()},
        limits=LimitsEntry(**asdict(run.setting.limits)),
        bars=dict(report.counts),
        error_share=_known(report.answers.error_share),
        latency_p95_s=_known(report.answers.latency_s),
        net_pnl=_arms(report.pnl),
        verdict=report.verdict,
        drawdown=report.drawdown,
        priced_to=report.priced_to,
        brier=_arms(report.brier),
    )


def _arms(compared: Comparison) -> ArmsEntry:
    numbers = {name: _known(value) for name, value in asdict(compared).items() if name != "n"}
    return ArmsEntry(n=compared.n, **numbers)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None

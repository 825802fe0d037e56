"""The route of the ensemble's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request

from deployments.ensemble import EnsembleState, earned_by
from deployments.errors import trace_id_of
from deployments.schemas import (
    EnsembleRequest,
    EnsembleResponse,
    ErrorResponse,
    ShadowAccount,
    WeightsOfDay,
)
from levibot.learning.members import prior_weights
from levibot.serving.weighing import ENSEMBLE, ROUTER, over_at
from levibot.stores.live_weights import HeldWeights
from levibot.stores.shadow import Earned
from levibot.trading.backtest import START_EQUITY

ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorResponse} for status in (422, 500, 503)}


class EnsembleFace(Protocol):
    """What the route needs; `Ensemble` has it."""

    async def weights(self, history_days: int) -> EnsembleState:
        """The weights that are held, and how they came about."""
        ...


def add_ensemble_routes(http: FastAPI, ensemble: EnsembleFace, source: str) -> None:
    """`/ai/ensemble/…` over `ensemble`."""

    @http.get("/ai/ensemble/weights", responses=ERRORS, summary="What each member weighs, and has earned")
    async def weights(asked: Annotated[EnsembleRequest, Query()], request: Request) -> EnsembleResponse:
        """The weights of the next decision with their age, the regime, whether the router leans them, what
        every shadow account has earned net of costs, and with `history_days` how the weights moved.
        """
        state = await ensemble.weights(asked.history_days)
        held = state.held
        age_s = None if held.as_of is None else (state.market_time - over_at(held.as_of)).total_seconds()
        return EnsembleResponse(
            held=_of_day(held),
            prior=dict(zip(held.members, prior_weights(held.members).tolist(), strict=True)),
            age_s=None if age_s is None else max(0.0, age_s),
            weights_from=state.read_from,
            history=[_of_day(one) for one in state.history],
            accounts={name: _account(of) for name, of in earned_by(state.earned).items()},
            market_time=state.market_time,
            problem=state.problem,
            source=source,
            trace_id=trace_id_of(request),
        )


def _of_day(held: HeldWeights) -> WeightsOfDay:
    return WeightsOfDay(
        as_of=held.as_of,
        model_version=held.model_version,
        basis=held.basis,
        weights=dict(zip(held.members, held.weights, strict=True)),
        routed=dict(zip(held.members, held.routed, strict=True)),
        route=ENSEMBLE if held.abstained else ROUTER,
        abstained=held.abstained,
        regime=dict(held.regime),
    )


def _account(by_regime: Mapping[str, Earned]) -> ShadowAccount:
    return ShadowAccount(
        net_pnl=sum(of.pnl for of in by_regime.values()) / START_EQUITY,
        days=sum(of.days for of in by_regime.values()),
        by_regime={regime: of.pnl / START_EQUITY for regime, of in by_regime.items()},
    )

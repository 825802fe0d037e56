"""The route of the policy in shadow."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import FastAPI, Request

from deployments.errors import trace_id_of
from deployments.policies import PolicyAnswer
from deployments.rl_schemas import PolicyRequest, PolicyResponse
from deployments.schemas import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 408, 409, 413, 422, 500, 503)
}


class PoliciesFace(Protocol):
    """What the route needs; `Policies` has it."""

    async def decision(self, symbol: str) -> PolicyAnswer:
        """The newest decision on a symbol, or an error that says why there is none."""
        ...


def add_rl_routes(http: FastAPI, policies: PoliciesFace, source: str) -> None:
    """`/ai/predict/rl` over `policies`."""

    @http.post("/ai/predict/rl", responses=ERRORS, summary="What the policy in shadow wants of a symbol")
    async def predict(body: PolicyRequest, request: Request) -> PolicyResponse:
        """The newest decision of the active policy: position, action, probabilities and age. It trades an
        account of its own and no signal follows it. 404 while no policy is active, 409 where the active one
        was trained on another view than the one that is served.
        """
        answer = await policies.decision(body.symbol)
        record = answer.record
        return PolicyResponse(
            symbol=record.symbol,
            as_of=record.as_of,
            position=record.position,
            action=record.action,
            probabilities=dict(record.probabilities),
            account_equity=record.equity,
            feature_age_s=answer.feature_age_s,
            freshness=answer.freshness,
            policy_version=record.policy_version,
            view_version=record.view_version,
            source=source,
            trace_id=trace_id_of(request),
        )

"""What the queries of all processes cost: the actors', the router's and this replica's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors import slow_queries
from actors.slow_queries import TIMEOUT_S, ProcessProfile
from deployments.schemas import QueryCostEntry
from levibot.errors import LeviBotError, NotReady
from levibot.resilience.guard import Guard
from levibot.stores.query_profile import PROFILE

SHOWN = 10


class SlowQueries:
    """Asks everyone who keeps a profile. The named fallback is an answer that names who is missing."""

    def __init__(self, router: DeploymentHandle[Any]) -> None:
        self._router = router
        self._actors = slow_queries.SlowQueries("api")
        self._guard = Guard(
            "api:router:slow_queries",
            timeout_s=TIMEOUT_S,
            attempts=1,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )

    async def top(self) -> tuple[list[QueryCostEntry], dict[str, str]]:
        """The queries that took most time altogether, and why a process said nothing of its own."""
        router, actors = await asyncio.gather(self._of_router(), self._actors.collect())
        own = ProcessProfile("api", [asdict(cost) for cost in PROFILE.top(SHOWN)])
        return merge([own, router, *actors])

    async def _of_router(self) -> ProcessProfile:
        try:
            return ProcessProfile("router", await self._guard.call(self._ask_router))
        except LeviBotError as exc:
            return ProcessProfile("router", None, exc.message)

    async def _ask_router(self) -> list[dict[str, Any]]:
        queries: list[dict[str, Any]] = await self._router.slow_queries.remote()
        return queries


def merge(profiles: Sequence[ProcessProfile]) -> tuple[list[QueryCostEntry], dict[str, str]]:
    """The queries that took most time, each with its process, and the problem of each silent process."""
    queries = [
        QueryCostEntry(process=profile.process, **query)
        for profile in profiles
        for query in profile.queries or ()
    ]
    missing = {profile.process: profile.problem for profile in profiles if profile.queries is None}
    return sorted(queries, key=lambda query: query.total_s, reverse=True)[:SHOWN], missing

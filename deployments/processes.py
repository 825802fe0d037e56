"""Asks every process of the run that keeps count: the actors and the router."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors import processes
from actors.processes import TIMEOUT_S, Said
from levibot.errors import LeviBotError, NotReady
from levibot.resilience.guard import Guard
from levibot.settings import Settings


class Processes:
    """All but the asking one. The named fallback is an answer that names who is missing."""

    def __init__(self, router: DeploymentHandle[Any], settings: Settings) -> None:
        self._router = router
        self._actors = processes.Processes("api", processes.names(settings))
        self._guard = Guard(
            "api:router:ask",
            timeout_s=TIMEOUT_S,
            attempts=1,
            transient=(RayError, RayServeException),
            unavailable=NotReady,
        )

    async def ask(self, method: str) -> list[Said]:
        """What that method of each process answers, all asked at once: takes TIMEOUT_S at most."""
        router, actors = await asyncio.gather(self._of_router(method), self._actors.ask(method))
        return [router, *actors]

    async def _of_router(self, method: str) -> Said:
        try:
            return Said("router", await self._guard.call(self._ask_router, method))
        except LeviBotError as exc:
            return Said("router", None, exc.message)

    async def _ask_router(self, method: str) -> Any:
        return await getattr(self._router, method).remote()

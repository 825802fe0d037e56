"""Keeps the feature vectors in Redis at the newest bar. Readers go to Redis, not to this actor."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import ray
import structlog
from ray.actor import ActorHandle

from actors import NAMESPACE
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import StoreUnavailable
from levibot.features.materialise import Materialised, Materialiser
from levibot.features.views import CORE
from levibot.learning.signal import SignalParameters
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_online, open_ticks
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

NAME = "online_features"
RETRY_S = 0.5
STEP_TIMEOUT_S = 30.0
log = structlog.get_logger()


class OnlineFeatures:
    """Refreshes the online store when bars arrive, and often enough that a living vector never expires.

    After a crash the window is read again from the tick store.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        # Its fallback is to wait: meanwhile readers see the vectors grow stale, and say so.
        self._guard = Guard(
            NAME, timeout_s=STEP_TIMEOUT_S, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )
        self._due = asyncio.Event()
        self._newest: Materialised | None = None
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def refresh_soon(self) -> None:
        """New bars are stored: refresh now rather than at the next turn."""
        self._due.set()

    async def status(self) -> dict[str, str | None]:
        """The newest row's event time, and the problem that the actor has now, if any."""
        newest = self._newest.event_time.isoformat() if self._newest else None
        return {"event_time": newest, "problem": self._problem}

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the computing of features", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Refresh again and again until a problem comes up, which is raised."""
        settings = self._settings
        online = open_online(settings, CORE)
        ticks = await open_ticks(settings)
        try:
            materialiser = Materialiser(
                ticks,
                online,
                market_id=settings.market_id,
                symbols=settings.symbols,
                interval=settings.interval,
                view=CORE,
                rows=SignalParameters().window_bars,
            )
            while True:
                self._newest = await self._guard.call(materialiser.refresh, self._clock.now())
                self._problem = ""
                await self._wait()
        finally:
            await ticks.close()
            await online.close()

    async def _wait(self) -> None:
        # Three chances to renew a vector before it expires, and a turn a second in case a poke is lost.
        turn_s = min(1.0, self._settings.feature_ttl_s / 3)
        try:
            async with asyncio.timeout(turn_s):
                await self._due.wait()
        except TimeoutError:
            return
        self._due.clear()


def poke() -> None:
    """Tell the actor that bars are stored. Losing this costs at most a second: the actor looks by itself."""
    try:
        ray.get_actor(NAME, namespace=NAMESPACE).refresh_soon.remote()
    except ValueError:
        log.warning("no actor of this name yet", actor=NAME)


def start(settings: Settings) -> ActorHandle:
    """The cluster's online features, started if they are not there yet."""
    return start_detached(OnlineFeatures, NAME, settings)

"""Moves the weights of the ensemble by what its members earn, a day at a time. Readers go to Redis."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from typing import Any

import structlog
from ray.actor import ActorHandle

from actors import event_letters, event_log
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.serving.weighing import ENSEMBLE, ROUTER, over_at
from levibot.serving.weight_keeping import WeightKeeping
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_ensembles, open_registry, open_ticks
from levibot.stores.event import Event
from levibot.stores.live_weights import HeldWeights, LiveWeights
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import DEFAULT

NAME = "ensemble_weights"
# A day that is over is seen so soon; a look that finds none costs four short queries.
POLL_S = 5.0
RETRY_S = 1.0
TURN_TIMEOUT_S = 120.0
log = structlog.get_logger()


class EnsembleWeights:
    """Publishes the weights; the formula is levibot/learning/weights.py. After a crash the history tells.

    State: what it published last.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        self._events = event_log.Client(NAME, event_letters.keeper(settings))
        # Its fallback is to wait: meanwhile signals are taken under the last weights, and say their age.
        self._guard = Guard(
            NAME, timeout_s=TURN_TIMEOUT_S, attempts=1, reset_s=RETRY_S, transient=(StoreUnavailable,)
        )
        self._held: tuple[HeldWeights, ...] = ()
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, Any]:
        """The weights that were published last, newest first, and the problem that there is, if any."""
        return {"held": [one.to_json() for one in self._held], "problem": self._problem}

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        as_of = self._held[0].as_of if self._held else None
        # Measured when it is asked for: weights that no longer move must not look as young as they were.
        age_s = math.nan if as_of is None else (self._clock.now() - over_at(as_of)).total_seconds()
        DEFAULT.ensemble_weight_age_seconds.set(age_s)
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the weights of the ensemble", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Learn day after day until a problem comes up, which is raised."""
        settings = self._settings
        ticks = await open_ticks(settings)
        live = LiveWeights(open_durable(settings))
        try:
            keeping = WeightKeeping(
                ticks,
                live,
                open_registry(settings),
                open_ensembles(settings),
                market_id=settings.market_id,
                symbols=settings.symbols,
                interval=settings.interval,
            )
            while True:
                self._note(await self._guard.call(keeping.turn, self._clock.now()))
                self._problem = ""
                await asyncio.sleep(POLL_S)
        finally:
            await live.close()
            await ticks.close()

    def _note(self, held: tuple[HeldWeights, ...]) -> None:
        newest = held[0]
        if self._held and self._held[0] == newest:
            return
        self._held = held
        DEFAULT.ensemble_weight.clear()
        for way, weights in ((ENSEMBLE, newest.weights), (ROUTER, newest.routed)):
            for member, weight in zip(newest.members, weights, strict=True):
                DEFAULT.ensemble_weight.labels(member, way).set(weight)
        self._events.tell([Event("ensemble_weights", "", self._clock.now(), newest.to_json())])


def start(settings: Settings) -> ActorHandle:
    """The cluster's keeper of the weights, started if it is not there yet."""
    return start_detached(EnsembleWeights, NAME, settings)

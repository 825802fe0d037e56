"""Keeps the feature vectors in Redis at the newest bar. Readers go to Redis, not to this actor.

One actor reads the bars and writes the whole cross-section in one piece. Where the settings name more than
one shard, the others compute their symbols' part in actors of their own: `feature_shard.py`.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from datetime import datetime
from typing import Any

import ray
import structlog
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors import NAMESPACE, feature_shard
from actors.answers import answer_of
from actors.detached import start_detached
from actors.feature_shard import RemoteShard, shard_window
from actors.following import follow_for_ever
from levibot.errors import NotReady, StoreUnavailable
from levibot.features.materialise import Materialised, Materialiser, OtherShard
from levibot.features.shards import Shard
from levibot.features.views import CORE
from levibot.resilience.guard import Guard
from levibot.serving.staleness import staleness_limit_s
from levibot.settings import Settings
from levibot.stores.connect import open_online, open_ticks
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import FEATURE_STALENESS, FEATURE_STALENESS_LIMIT

NAME = "online_features"
RETRY_S = 0.5
STEP_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 1.0
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
        self._others = [
            OtherShard(Shard(index, settings.feature_shards), RemoteShard(index).part)
            for index in range(1, settings.feature_shards)
        ]
        self._due = asyncio.Event()
        self._newest: Materialised | None = None
        self._has_looked = False
        self._event_times: dict[str, datetime] = {}
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def refresh_soon(self) -> None:
        """New bars are stored: refresh now rather than at the next turn."""
        self._due.set()

    async def status(self) -> dict[str, Any]:
        """The newest row's event time, the problem that the actor has now, if any, and what it is to write.

        expected: the symbols that have a bar in the newest row, and so a vector online; all of them while no
        bars were looked at yet.
        """
        newest = self._newest
        expected: tuple[str, ...] = () if self._has_looked else self._settings.symbols
        return {
            "event_time": None if newest is None else newest.event_time.isoformat(),
            "problem": self._problem,
            "expected": list(expected if newest is None else newest.symbols + newest.waiting),
        }

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        FEATURE_STALENESS_LIMIT.set(staleness_limit_s(self._settings.interval, self._clock.rate))
        now = self._clock.now()
        for symbol in self._settings.symbols:
            # Measured when it is asked for: what is no longer written must not look as fresh as it was.
            event_time = self._event_times.get(symbol)
            age_s = math.nan if event_time is None else max(0.0, (now - event_time).total_seconds())
            FEATURE_STALENESS.labels(symbol).set(age_s)
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
        online = open_online(self._settings, CORE)
        ticks = await open_ticks(self._settings)
        try:
            own = shard_window(self._settings, ticks, Shard(0, self._settings.feature_shards))
            materialiser = Materialiser(own, online, self._others)
            while True:
                self._note(await self._guard.call(materialiser.refresh, self._clock.now()))
                await self._wait()
        finally:
            await ticks.close()
            await online.close()

    def _note(self, newest: Materialised | None) -> None:
        self._newest = newest
        self._has_looked = True
        self._problem = "" if newest is None else " ".join(newest.problems)
        if newest is not None:
            self._event_times |= dict.fromkeys(newest.symbols, newest.event_time)

    async def _wait(self) -> None:
        # Three chances to renew a vector before it expires, and a turn a second in case a poke is lost.
        turn_s = min(1.0, self._settings.feature_ttl_s / 3)
        try:
            async with asyncio.timeout(turn_s):
                await self._due.wait()
        except TimeoutError:
            return
        self._due.clear()


class Reader:
    """Asks the actor how far it is, from another process.

    The named fallback of this call is an error that says so, within ASK_TIMEOUT_S; what is served does not
    wait for it.
    """

    def __init__(self, process: str) -> None:
        self._guard = Guard(
            f"{process}:{NAME}:status",
            timeout_s=ASK_TIMEOUT_S,
            attempts=1,
            reset_s=1.0,
            transient=(RayError, ValueError),
            unavailable=NotReady,
        )

    async def expected(self) -> tuple[list[str], str]:
        """The symbols whose features must be online, and the problem that the actor has, if any.

        Raises NotReady when it does not answer.
        """
        return await self._guard.call(self._ask)

    async def _ask(self) -> tuple[list[str], str]:
        # The look-up may block. ValueError: there is no actor of this name.
        actor = await asyncio.to_thread(ray.get_actor, NAME, namespace=NAMESPACE)
        status: dict[str, Any] = await answer_of(actor.status.remote())
        return list(status["expected"]), str(status["problem"])


def poke() -> None:
    """Tell the actor that bars are stored. Losing this costs at most a second: the actor looks by itself."""
    try:
        ray.get_actor(NAME, namespace=NAMESPACE).refresh_soon.remote()
    except ValueError:
        log.warning("no actor of this name yet", actor=NAME)


def start(settings: Settings) -> ActorHandle:
    """The cluster's online features, with its other shards, started if they are not there yet."""
    for index in range(1, settings.feature_shards):
        feature_shard.start(settings, index)
    return start_detached(OnlineFeatures, NAME, settings)

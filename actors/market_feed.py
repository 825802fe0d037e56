"""The live feed: stores each bar as it finishes on the market's clock, and says so."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from ray.actor import ActorHandle

from actors import event_letters, event_log, online_features
from actors.detached import start_detached
from levibot.errors import LeviBotError, SourceUnavailable, StoreUnavailable
from levibot.market.ingest import Ingest, Ingested
from levibot.market.sources import Source, open_source
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_ticks
from levibot.stores.events import Event
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.logging import configure_logging

NAME = "market_feed"
# A live exchange is asked every few seconds; a replay as often as its bars need.
LIVE_POLL_S = 5.0
FASTEST_POLL_S = 0.05
RETRY_S = 0.5
STEP_TIMEOUT_S = 60.0
log = structlog.get_logger()


class MarketFeed:
    """Brings the tick store up to the market's present, again and again.

    After a crash it goes on from the newest stored bar: the store is its only memory.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        self._events = event_log.Client(NAME, event_letters.keeper(settings))
        # Its fallback is to wait: what was missed is read again from the source.
        self._guard = Guard(
            NAME,
            timeout_s=STEP_TIMEOUT_S,
            attempts=1,
            reset_s=1.0,
            transient=(StoreUnavailable, SourceUnavailable),
        )
        self._source: Source | None = None
        self._newest_close: datetime | None = None
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, str | None]:
        """The newest bar's close, and the problem that the feed has now, if any."""
        newest = self._newest_close.isoformat() if self._newest_close else None
        return {"newest_close": newest, "problem": self._problem}

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except LeviBotError as exc:
                self._problem = str(exc)
                log.warning("the feed is waiting", reason=str(exc))
            except Exception as exc:
                self._problem = f"{type(exc).__name__}: {exc}"
                log.error("the feed failed and begins again", exc_info=exc)
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Store bar after bar until a problem comes up, which is raised."""
        if self._source is None:
            self._source = await asyncio.to_thread(open_source, self._settings)
        ticks = await open_ticks(self._settings)
        try:
            ingest = Ingest(self._source, ticks, self._settings.market_id, self._settings.symbols)
            while True:
                self._note(await self._guard.call(ingest.up_to, self._clock.now()))
                self._problem = ""
                await asyncio.sleep(self._poll_s())
        finally:
            await ticks.close()

    def _note(self, step: Ingested) -> None:
        if step.newest_close is None or step.newest_close == self._newest_close:
            return
        self._newest_close = step.newest_close
        online_features.poke()
        payload = {"n_bars": step.n_new, "source": self._settings.source}
        self._events.tell([Event(event_type="bars", symbol="", ts=step.newest_close, payload=payload)])

    def _poll_s(self) -> float:
        if self._settings.source == "exchange":
            return LIVE_POLL_S
        return max(FASTEST_POLL_S, 0.25 / self._settings.replay_speed)


def start(settings: Settings) -> ActorHandle:
    """The cluster's market feed, started if it is not there yet."""
    return start_detached(MarketFeed, NAME, settings)

"""The live feed: stores each bar as it finishes on the market's clock, and says so.

The trades of a live market are a loop of their own in the same actor: `live_trades.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from ray.actor import ActorHandle

from actors import event_letters, event_log, online_features
from actors.detached import start_detached
from actors.following import follow_for_ever
from actors.live_trades import LiveTrades
from levibot.errors import LeviBotError, SourceUnavailable, StoreUnavailable
from levibot.market.backfill import Backfill
from levibot.market.ingest import Ingest, Ingested
from levibot.market.intake import Intake
from levibot.market.sources import Source, open_source
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_ticks
from levibot.stores.events import Event
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

NAME = "market_feed"
# A live exchange is asked every few seconds; a replay as often as its bars need.
LIVE_POLL_S = 5.0
FASTEST_POLL_S = 0.05
RETRY_S = 0.5
# A live market is asked for so many holes and then for its newest bar again.
HOLES_A_STEP = 20
STEP_TIMEOUT_S = 60.0
log = structlog.get_logger()


class MarketFeed:
    """Brings the tick store up to the market's present, again and again.

    After a crash it goes on from the newest stored bar and trade: the store is its only memory, but for the
    holes that the source could not fill. Bars and trades are two loops; neither waits for the other.
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
        self._hole_guard = Guard(
            f"{NAME} holes",
            timeout_s=STEP_TIMEOUT_S,
            attempts=1,
            transient=(StoreUnavailable, SourceUnavailable),
        )
        self._source: Source | None = None
        self._backfill: Backfill | None = None
        self._newest_close: datetime | None = None
        self._problem = ""
        loop = asyncio.get_running_loop()
        self._loop = loop.create_task(self._run())
        self._trades = LiveTrades(settings) if settings.source == "exchange" and settings.trades else None
        self._trade_loop = None if self._trades is None else loop.create_task(self._trades.run())

    async def status(self) -> dict[str, Any]:
        """The newest bar's close, and the problem that the feed has now, if any; of its trades likewise."""
        newest = self._newest_close.isoformat() if self._newest_close else None
        status: dict[str, Any] = {"newest_close": newest, "problem": self._problem}
        return status if self._trades is None else status | {"trades": self._trades.status()}

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the feed", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Store bar after bar until a problem comes up, which is raised."""
        if self._source is None:
            self._source = await asyncio.to_thread(open_source, self._settings)
        if self._backfill is None:
            self._backfill = Backfill(self._source, self._settings.symbols)
        filling: asyncio.Task[None] | None = None
        ticks = await open_ticks(self._settings)
        try:
            intake = Intake(ticks, self._settings.market_id)
            ingest = Ingest(self._source, intake, self._settings.symbols)
            while True:
                as_of = self._clock.now()
                intake.begin()
                step = await self._guard.call(ingest.up_to, as_of)
                self._note(step)
                self._problem = ""
                if (step.n_new or self._backfill.has_waiting) and (filling is None or filling.done()):
                    # Beside the bars: a hole that cannot be filled must not hold the newest ones up.
                    filling = asyncio.create_task(self._fill_holes(self._backfill, intake, as_of))
                await asyncio.sleep(self._poll_s())
        finally:
            if filling is not None:
                filling.cancel()
                await asyncio.gather(filling, return_exceptions=True)
            await ticks.close()

    async def _fill_holes(self, backfill: Backfill, intake: Intake, as_of: datetime) -> None:
        try:
            done = await self._hole_guard.call(backfill.fill, intake, as_of, HOLES_A_STEP)
        except LeviBotError as exc:
            log.warning("holes between bars wait", reason=str(exc))
            return
        except Exception as exc:
            log.error("the search for holes failed", exc_info=exc)
            return
        if done.n_asked:
            payload = {"n_holes": done.n_asked, "n_filled": done.n_filled, "n_lacking": done.n_lacking}
            log.info("holes between bars were asked for", **payload)
            self._events.tell([Event(event_type="backfill", symbol="", ts=as_of, payload=payload)])

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

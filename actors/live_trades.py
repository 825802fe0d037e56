"""A live market's trades, from the exchange into the tick table, with the housekeeping of both."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import structlog

from levibot.errors import DataError, LeviBotError, StoreUnavailable, UsageError
from levibot.market.exchange_check import check_health
from levibot.market.exchange_client import ExchangeClient
from levibot.market.intake import Account, Intake
from levibot.market.trade_backfill import TradeBackfill
from levibot.market.trade_feed import TradeFeed
from levibot.market.trade_ingest import TradeIngest
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_ticks, open_volatile
from levibot.stores.tick_maintenance import TickMaintenance

WRITE_TIMEOUT_S = 30.0
RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
BACKFILL_S = 60.0
HEALTH_S = 60.0
PAGES_A_ROUND = 20
log = structlog.get_logger()


class LiveTrades:
    """One loop of the market feed, run by its actor. State: what it follows now.

    After a fault of the store it begins again after the newest stored trade; what was traded meanwhile is
    read from the exchange. A fault of the exchange is the feed's own matter.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock()
        self._guard = Guard(
            "live trades", timeout_s=WRITE_TIMEOUT_S, attempts=3, transient=(StoreUnavailable,)
        )
        self._backfill = TradeBackfill(settings.symbols)
        self._feed: TradeFeed | None = None
        self._ingest: TradeIngest | None = None
        self._account = Account()
        self._problem = ""
        self._exchange_problem = ""

    @property
    def account(self) -> Account:
        """All the trades that came since the process began."""
        return self._account if self._ingest is None else self._account + self._ingest.account

    def status(self) -> dict[str, Any]:
        """How the trades are doing: the feed's status, what came of them, and the problem, if any.

        exchange_problem: why the exchange should not be relied on now, as it said within the last minute.
        """
        feed = {} if self._feed is None else asdict(self._feed.status())
        account = {"n_stored": self.account.n_new, "n_rejected": self.account.n_rejected}
        problems = {
            "problem": self._problem or feed.get("problem", ""),
            "exchange_problem": self._exchange_problem,
        }
        return feed | account | problems

    async def run(self) -> None:
        """Follow the trades until cancelled; ends at once where the market's trades cannot be followed."""
        pause_s = RETRY_S
        while True:
            n_before = self.account.n_read
            try:
                await self._follow()
            except LeviBotError as exc:
                self._problem = str(exc)
                if isinstance(exc, UsageError) and not isinstance(exc, DataError):
                    # No exchange, symbol or stream of that name: it will not be there a moment later either.
                    log.error("the trades cannot be followed", reason=str(exc))
                    return
                log.warning("the trades are waiting", reason=str(exc))
            except Exception as exc:
                self._problem = f"{type(exc).__name__}: {exc}"
                log.error("the trades failed and begin again", exc_info=exc)
            pause_s = RETRY_S if self.account.n_read > n_before else min(LONGEST_RETRY_S, 2 * pause_s)
            await asyncio.sleep(pause_s)

    async def _follow(self) -> None:
        """Follow until a problem comes up, which is raised."""
        settings = self._settings
        ticks = await open_ticks(settings)
        volatile = open_volatile(settings)
        board = CircuitBoard(volatile)
        client = ExchangeClient(settings.exchange, self._clock, base_url=settings.exchange_url, shared=board)
        intake = Intake(ticks, settings.market_id)
        ingest = TradeIngest(intake, self._guard)
        maintenance = TickMaintenance(ticks.rollup, ticks.partitions, self._clock)
        try:
            # First: what is too old to be kept must not be what the trades go on after.
            await maintenance.maintain()
            newest = await ticks.ticks.last(settings.market_id, settings.symbols)
            newest_ids = {symbol: trade_id for symbol, (_, trade_id) in newest.items()}
            self._feed = TradeFeed(client, settings.symbols, self._clock, newest_ids=newest_ids)
            self._ingest = ingest
            self._problem = ""
            async with board, asyncio.TaskGroup() as jobs:
                jobs.create_task(maintenance.run())
                jobs.create_task(self._fill_holes(intake, client))
                jobs.create_task(self._watch_exchange(client))
                async with aclosing(self._feed.batches()) as batches:
                    await ingest.follow(batches)
        except ExceptionGroup as group:
            # The jobs end together: what ended them is the first.
            raise group.exceptions[0] from group
        finally:
            self._account += ingest.account
            self._ingest = None
            await client.close()
            await volatile.aclose()
            await ticks.close()

    async def _watch_exchange(self, client: ExchangeClient) -> None:
        while True:
            try:
                problem = (await check_health(client)).problem
            except LeviBotError as exc:
                problem = str(exc)
            if problem and problem != self._exchange_problem:
                log.warning("the exchange should not be relied on", reason=problem)
            self._exchange_problem = problem
            await asyncio.sleep(HEALTH_S)

    async def _fill_holes(self, intake: Intake, client: ExchangeClient) -> None:
        while True:
            intake.begin()
            try:
                done = await self._backfill.fill(intake, client.trades_from, PAGES_A_ROUND)
            except LeviBotError as exc:
                log.warning("holes between trades wait", reason=str(exc))
            else:
                if done.n_found:
                    log.info(
                        "holes between trades were asked for",
                        n_holes=done.n_found,
                        n_filled=done.account.n_new,
                        n_lacking=done.n_lacking,
                        n_waiting=done.n_waiting,
                    )
            await asyncio.sleep(BACKFILL_S)

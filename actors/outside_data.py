"""Looks at the sources outside the market's bars, each at its own pace, and stores what they say.

In a live market: funding of the exchange, 0x, Reservoir, OpenAI. In a replay what is said outside today would
be the future: there only what was recorded beside the bars is stored.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from ray.actor import ActorHandle

from actors import event_letters, event_log
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import LeviBotError, StoreUnavailable
from levibot.market.dex import DexClient
from levibot.market.dex_spread import DexSpread
from levibot.market.exchange_client import ExchangeClient
from levibot.market.funding_rates import FundingRates
from levibot.market.headlines import HeadlineFeed
from levibot.market.intake import Intake
from levibot.market.news import NewsClient
from levibot.market.news_tone import RATING_CODEC, RATING_LIFE_S, NewsTone
from levibot.market.nft import NftClient
from levibot.market.nft_floor import NftFloor
from levibot.market.outside_poll import STORE_TIMEOUT_S, OutsidePoll
from levibot.market.outside_source import OutsideSource
from levibot.market.side_ingest import ingest_side_series
from levibot.market.sources import open_source
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.cache import Cache
from levibot.stores.connect import open_durable, open_ticks, open_volatile
from levibot.stores.event import Event
from levibot.stores.query_profile import PROFILE
from levibot.stores.spending import RedisSpending
from levibot.stores.ticks import TickStore
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import DEFAULT

NAME = "outside_data"
RETRY_S = 5.0
RECORDED_TIMEOUT_S = 120.0
SPENDING_EVERY_S = 30.0
# As far back as a first run loads bars.
FUNDING_HISTORY = timedelta(days=730)


class OutsideData:
    """Holds a loop a source. After a crash each goes on from what is stored: nothing else is remembered here.

    What was spent, and what was rated, is in Redis.
    """

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._clock = settings.clock()
        self._events = event_log.Client(NAME, event_letters.keeper(settings))
        self._polls: tuple[OutsidePoll, ...] = ()
        self._n_recorded = 0
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, Any]:
        """How each source is, what was recorded beside a replayed market, and the actor's own problem."""
        return {
            "sources": {poll.source.name: poll.status() for poll in self._polls},
            "n_recorded": self._n_recorded,
            "problem": self._problem,
        }

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        for poll in self._polls:
            poll.measure()
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the data from outside", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Look at all sources until the stores cannot be opened, which is raised."""
        settings = self._settings
        async with AsyncExitStack() as ending:
            ticks = await open_ticks(settings)
            ending.push_async_callback(ticks.close)
            if settings.source != "exchange":
                intake = Intake(ticks, settings.market_id)
                guard = self._guard("recorded", RECORDED_TIMEOUT_S)
                self._n_recorded = await guard.call(self._take_recorded, intake)
                self._problem = ""
                # The recording is whole: nothing comes after it.
                await asyncio.Event().wait()
            await self._look(ticks, ending)

    async def _take_recorded(self, intake: Intake) -> int:
        source = await asyncio.to_thread(open_source, self._settings)
        first, last = await asyncio.to_thread(source.extent)
        if last is None:
            return 0
        return (await ingest_side_series(source, intake, first, last)).n_new

    async def _look(self, ticks: TickStore, ending: AsyncExitStack) -> None:
        settings, clock = self._settings, self._clock
        durable, volatile = open_durable(settings), open_volatile(settings)
        ending.push_async_callback(durable.aclose)
        ending.push_async_callback(volatile.aclose)
        board = await ending.enter_async_context(CircuitBoard(volatile))
        spot, perpetual = (
            ExchangeClient(settings.exchange, clock, kind=kind, base_url=settings.exchange_url, shared=board)
            for kind in ("spot", "perpetual")
        )
        news = NewsClient.open(settings, RedisSpending(durable), clock, board)
        ratings = Cache(
            "ratings",
            volatile,
            codec=RATING_CODEC,
            l1_ttl_s=RATING_LIFE_S,
            l2_ttl_s=RATING_LIFE_S,
            grace_s=0.0,
        )
        since = settings.train_start or clock.now() - FUNDING_HISTORY
        sources: tuple[OutsideSource, ...] = (
            FundingRates(
                settings.source,
                perpetual,
                settings.symbols,
                clock,
                every_s=settings.funding_poll_s,
                since=since,
            ),
            DexSpread(
                DexClient.open(settings, clock, board), spot, settings.symbols, every_s=settings.dex_poll_s
            ),
            NftFloor(
                NftClient.open(settings, clock, board), settings.nft_collection, every_s=settings.nft_poll_s
            ),
            NewsTone(
                HeadlineFeed.open(settings, clock, board),
                news,
                ratings,
                settings.symbols,
                every_s=settings.news_poll_s,
            ),
        )
        for source in sources:
            ending.push_async_callback(source.close)
        self._polls = tuple(
            OutsidePoll(
                source,
                Intake(ticks, settings.market_id),
                self._guard(source.name, STORE_TIMEOUT_S),
                clock,
                self._tell,
            )
            for source in sources
        )
        self._problem = ""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._count_spending(news))
            for poll in self._polls:
                loops.create_task(poll.run())

    async def _count_spending(self, news: NewsClient) -> None:
        while True:
            try:
                if not (await news.status()).is_disabled:
                    DEFAULT.outside_spent_usd.labels("OpenAI").set(await news.spent_usd())
            except LeviBotError:
                # The news' own loop meets the same fault, and says so.
                DEFAULT.outside_spent_usd.clear()
            await asyncio.sleep(SPENDING_EVERY_S)

    def _guard(self, what: str, timeout_s: float) -> Guard:
        # Its fallback is to wait: what is not stored is read again.
        return Guard(
            f"{NAME} {what}", timeout_s=timeout_s, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )

    def _tell(self, event_type: str, payload: dict[str, Any]) -> None:
        self._events.tell([Event(event_type=event_type, symbol="", ts=self._clock.now(), payload=payload)])


def start(settings: Settings) -> ActorHandle:
    """The cluster's poll of the sources outside, started if it is not there yet."""
    return start_detached(OutsideData, NAME, settings)

"""The poll of the sources outside as a real process: killed while it looks, and asked what it spent."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors import NAMESPACE, outside_data
from levibot.market.price_process import MARKET_START
from levibot.market.side_series import DEX_SPREAD, FUNDING_RATE, NEWS_SENTIMENT, NFT_FLOOR, SERIES
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.connect import open_durable
from levibot.stores.spending import RedisSpending
from levibot.stores.ticks import TickStore
from tests.fakes import dex_server, news_server, nft_server
from tests.fakes.exchange_server import FUNDING_MS, FakeExchange
from tests.fakes.feed_server import FakeFeed

pytestmark = [pytest.mark.ray, pytest.mark.stores]

HOUR = timedelta(hours=1)
HISTORY = timedelta(days=20)
SOURCES = {"exchange", "0x", "Reservoir", "OpenAI"}
ROWS = """
SELECT source, name, symbol, event_ts, count(*) AS n, count(DISTINCT available_ts) AS n_known
FROM observations WHERE market_id = $1 GROUP BY source, name, symbol, event_ts
"""


@dataclass
class Outside:
    """The places that the actor asks, and where it stores what they say."""

    settings: Settings
    store: TickStore
    exchange: FakeExchange
    dex: dex_server.FakeDex
    nft: nft_server.FakeReservoir
    openai: news_server.FakeOpenAI
    feed: FakeFeed

    async def rows(self) -> list[Any]:
        """One row an event, with how often it is stored."""
        async with self.store._client.connection("rows") as (db, _):
            return list(await db.fetch(ROWS, self.settings.market_id))

    async def events_of(self, name: str) -> list[datetime]:
        return [row["event_ts"] for row in await self.rows() if row["name"] == name]

    async def spent_nano_usd(self) -> int:
        client = open_durable(self.settings)
        try:
            return await RedisSpending(client).spent_nano_usd("OpenAI", datetime.now(UTC).date())
        finally:
            await client.aclose()


@pytest.fixture
async def outside(
    cluster: None, tick_store: TickStore, postgres_dsn: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Outside]:
    async with tick_store._client.connection("which_database") as (db, _):
        database = await db.fetchval("SELECT current_database()")
    symbol = "BTCUSDT"
    bars = SimulatedSource((symbol,), HOUR, 5, 0.0).bars(symbol, MARKET_START, MARKET_START + 5 * HOUR)
    with ExitStack() as running:
        exchange = running.enter_context(FakeExchange({symbol: bars}))
        exchange.follows_clock = True
        dex = running.enter_context(dex_server.FakeDex())
        # A quote of 100.1 for one of 8 decimals in one of 6; the exchange's mid price is 100.005.
        dex.rate = Fraction(1001 * 10**5, 10**8)
        nft = running.enter_context(nft_server.FakeReservoir())
        openai = running.enter_context(news_server.FakeOpenAI())
        # Headlines of this test alone: Redis remembers those of an earlier one.
        feed = running.enter_context(
            FakeFeed([f"Bitcoin rises {secrets.token_hex(4)}", secrets.token_hex(4)])
        )
        feed.newest_at = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=3)
        settings = Settings.load(
            home=tmp_path,
            redis_url=redis_url,
            postgres_dsn=f"{postgres_dsn.rsplit('/', 1)[0]}/{database}",
            source="exchange",
            exchange_url=exchange.url,
            symbols=(symbol,),
            train_start=datetime.now(UTC) - HISTORY,
            dex_url=dex.url,
            dex_key=dex_server.KEY,
            dex_poll_s=0.2,
            nft_url=nft.url,
            nft_key=nft_server.KEY,
            nft_poll_s=0.2,
            news_url=openai.url,
            news_key=news_server.KEY,
            news_feed_url=f"{feed.url}/rss",
            news_poll_s=0.2,
            funding_poll_s=0.2,
        )
        yield Outside(settings, tick_store, exchange, dex, nft, openai, feed)
        ray.kill(ray.get_actor(outside_data.NAME, namespace=NAMESPACE), no_restart=True)


async def until(said: Callable[[], Awaitable[bool]], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not await said():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def process_of_the_poll() -> psutil.Process:
    """The one that this test's own cluster runs."""
    (found,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if "ray::OutsideData" in " ".join(process.cmdline())
    )
    return found


async def test_a_killed_poll_loses_and_doubles_nothing_and_pays_nothing_twice(outside: Outside) -> None:
    actor: Any = outside_data.start(outside.settings)

    async def all_are_there() -> bool:
        return {row["name"] for row in await outside.rows()} == set(SERIES)

    await until(all_are_there)
    spent_before, n_asked = await outside.spent_nano_usd(), len(outside.openai.asked)
    assert (spent_before > 0, n_asked) == (True, 2)
    status = await actor.status.remote()
    assert {name: one["state"] for name, one in status["sources"].items()} == dict.fromkeys(
        SOURCES, "working"
    )

    for _ in range(3):
        before = process_of_the_poll()
        n_floors = len(await outside.events_of(NFT_FLOOR))
        os.kill(before.pid, signal.SIGKILL)

        async def goes_on(known: int = n_floors) -> bool:
            return len(await outside.events_of(NFT_FLOOR)) > known + 2

        await until(goes_on)

    rows = await outside.rows()
    # Each event once: what the exchange and the feed say again at every look is not stored again.
    assert Counter(row["n"] for row in rows) == {1: len(rows)}
    first = -(-int((datetime.now(UTC) - HISTORY).timestamp() * 1000) // FUNDING_MS)
    last = outside.exchange.now_ms() // FUNDING_MS
    paid = {int(at.timestamp() * 1000) // FUNDING_MS for at in await outside.events_of(FUNDING_RATE)}
    assert set(range(first, last + 1)) <= paid <= set(range(first - 1, last + 1))
    assert len(await outside.events_of(NEWS_SENTIMENT)) == 1
    assert await outside.events_of(DEX_SPREAD)
    # The account and the ratings are in Redis: three restarts cost nothing.
    assert await outside.spent_nano_usd() == spent_before
    assert len(outside.openai.asked) == n_asked


async def test_one_source_that_hangs_is_said_and_the_others_go_on(outside: Outside) -> None:
    outside.nft.fault = "hang"
    actor: Any = outside_data.start(outside.settings)

    async def the_others_work() -> bool:
        names = {row["name"] for row in await outside.rows()}
        return names == {FUNDING_RATE, DEX_SPREAD, NEWS_SENTIMENT}

    await until(the_others_work)
    n_quotes = len(await outside.events_of(DEX_SPREAD))

    async def quotes_go_on() -> bool:
        return len(await outside.events_of(DEX_SPREAD)) > n_quotes + 3

    await until(quotes_go_on)
    families = await actor.metrics.remote()
    shown = {
        labels["source"]: value
        for family in families
        for name, labels, value in family.samples
        if name == "levibot_outside_silence_seconds"
    }
    assert set(shown) == SOURCES
    assert (await outside.events_of(NFT_FLOOR)) == []

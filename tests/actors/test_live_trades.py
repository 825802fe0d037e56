"""A live market's trades, from a fake exchange into a real PostgreSQL, without Ray."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from actors.live_trades import LiveTrades
from levibot.clock import SystemClock
from levibot.errors import StoreUnavailable
from levibot.market.exchange_client import ExchangeClient
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers, endpoints
from levibot.stores.ticks import TickStore
from tests.fakes import exchange_server
from tests.fakes.exchange_server import FIRST_TRADE_ID, FakeExchange

pytestmark = pytest.mark.stores

SYMBOL = "BTCUSDT"


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """An actor sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExchange]:
    """Its trades are of now: older ones are not kept."""
    monkeypatch.setattr(exchange_server, "FIRST_TRADE_MS", time.time_ns() // 1_000_000)
    source = SimulatedSource((SYMBOL,), timedelta(hours=1), 5, 0.0)
    with FakeExchange(
        {SYMBOL: source.bars(SYMBOL, MARKET_START, MARKET_START + timedelta(hours=5))}
    ) as running:
        running.trade(SYMBOL, 3)
        yield running


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A PostgreSQL of this test alone, to be killed."""
    running = EmbeddedServers(Settings.load(home=tmp_path / "home", redis_url="redis://unused"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def settings(tmp_path: Path, exchange: FakeExchange, servers: EmbeddedServers) -> Settings:
    return Settings(
        home=tmp_path / "home",
        source="exchange",
        exchange="binance",
        exchange_url=exchange.url,
        symbols=(SYMBOL,),
        redis_url="redis://unused",
    )


@pytest.fixture
async def store(servers: EmbeddedServers, settings: Settings) -> AsyncIterator[TickStore]:
    opened = await TickStore.open(endpoints(settings).postgres_dsn)
    await opened.migrate()
    yield opened
    await opened.close()


@pytest.fixture
async def trades(settings: Settings, store: TickStore) -> AsyncIterator[LiveTrades]:
    """Trades that are followed while the test runs."""
    followed = LiveTrades(settings)
    running = asyncio.create_task(followed.run())
    yield followed
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within 30 s")


async def stored_ids(store: TickStore, settings: Settings) -> list[int]:
    """As numbers of the exchange's trades, from 0."""
    try:
        found = await store.ticks.read(settings.market_id, SYMBOL)
    except StoreUnavailable:
        return []
    return [int(trade_id) - FIRST_TRADE_ID for trade_id in found.trade_id]


async def until_stored(store: TickStore, settings: Settings, expected: list[int]) -> None:
    for _ in range(600):
        found = await stored_ids(store, settings)
        if found == expected:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found} is stored, not {expected}")


async def test_trades_are_stored_as_they_happen(
    exchange: FakeExchange, settings: Settings, store: TickStore, trades: LiveTrades
) -> None:
    await until(lambda: exchange.subscribed(SYMBOL) == 1)
    await asyncio.to_thread(exchange.trade, SYMBOL, 40)
    # What was traded before the first start is not known, and not asked for.
    await until_stored(store, settings, list(range(3, 43)))
    status = trades.status()
    assert (status["n_stored"], status["n_rejected"], status["problem"]) == (40, 0, "")


async def test_what_is_traded_while_the_store_is_away_is_not_lost(
    exchange: FakeExchange,
    settings: Settings,
    store: TickStore,
    servers: EmbeddedServers,
    trades: LiveTrades,
) -> None:
    await until(lambda: exchange.subscribed(SYMBOL) == 1)
    await asyncio.to_thread(exchange.trade, SYMBOL, 5)
    await until_stored(store, settings, list(range(3, 8)))
    server = psutil.Process(servers.pids()["postgres"])
    server.kill()
    server.wait(5)
    await asyncio.to_thread(exchange.trade, SYMBOL, 5)
    await until(lambda: trades.status()["problem"] != "")
    await asyncio.to_thread(exchange.trade, SYMBOL, 5)
    assert servers.restart_dead() == ["postgres"]
    await until(lambda: exchange.subscribed(SYMBOL) == 1)
    await asyncio.to_thread(exchange.trade, SYMBOL, 5)
    await until_stored(store, settings, list(range(3, 23)))
    await until(lambda: trades.status()["problem"] == "")


async def test_holes_of_earlier_days_are_filled_beside_the_live_trades(
    exchange: FakeExchange, settings: Settings, store: TickStore
) -> None:
    exchange.trade(SYMBOL, 47)
    client = ExchangeClient("binance", SystemClock(), base_url=exchange.url)
    for first, n in ((0, 10), (20, 10)):
        held = await client.trades_from(SYMBOL, FIRST_TRADE_ID + first, n)
        await store.ticks.write(settings.market_id, [held])
    await client.close()
    running = asyncio.create_task(LiveTrades(settings).run())
    await until_stored(store, settings, list(range(50)))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_exchange_whose_trades_cannot_be_followed_is_said_once(
    settings: Settings, store: TickStore
) -> None:
    trades = LiveTrades(settings.model_copy(update={"exchange": "kraken"}))
    async with asyncio.timeout(30):
        await trades.run()
    assert "are not numbered one by one" in trades.status()["problem"]


async def test_an_exchange_under_maintenance_is_named_beside_its_trades(
    exchange: FakeExchange, trades: LiveTrades
) -> None:
    exchange.system_status, exchange.follows_clock = 1, True
    await until(lambda: trades.status()["exchange_problem"] != "")
    assert "maintenance" in trades.status()["exchange_problem"]
    assert trades.status()["problem"] == ""

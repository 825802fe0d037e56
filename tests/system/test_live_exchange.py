"""A live market: the machine's clock, and bars that finish while it runs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.market.bars import Bars, to_datetime64
from levibot.market.simulator import SimulatedSource
from levibot.stores.connect import open_ticks
from tests.fakes import exchange_server
from tests.fakes.exchange_server import FakeExchange

from .conftest import LiveSystem, start_system, wait_for

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.stores]

MINUTE = timedelta(minutes=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
HISTORY_BARS = 4_000


def walked_until_now(symbol: str, source: SimulatedSource, ahead: timedelta) -> Bars:
    """Simulated bars whose last ones lie in the real future, as an unfinished bar does."""
    start, _ = source.extent()
    bars = source.bars(symbol, start, start + (HISTORY_BARS + 60) * MINUTE)
    last = datetime.now(UTC).replace(second=0, microsecond=0) + ahead
    ts = to_datetime64(last) - np.arange(len(bars))[::-1] * np.timedelta64(MINUTE)
    return Bars(symbol, MINUTE, ts, bars.open, bars.high, bars.low, bars.close, bars.volume)


def as_of(system: LiveSystem) -> datetime:
    return datetime.fromisoformat(system.predict().json()["as_of"])


def stored_trades(system: LiveSystem) -> list[int]:
    """The ids of the trades of BTCUSDT in the tick store."""

    async def read() -> list[int]:
        ticks = await open_ticks(system.settings)
        try:
            found = await ticks.ticks.read("exchange:binance:1m", "BTCUSDT")
            return [int(trade_id) for trade_id in found.trade_id]
        finally:
            await ticks.close()

    return asyncio.run(read())


def test_a_live_market_is_served_as_its_bars_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SimulatedSource(SYMBOLS, MINUTE, 7, 0.0)
    bars = {s: walked_until_now(s, source, timedelta(minutes=30)) for s in SYMBOLS}
    # Of now: older trades are not kept.
    monkeypatch.setattr(exchange_server, "FIRST_TRADE_MS", time.time_ns() // 1_000_000)
    with FakeExchange(bars) as exchange:
        # One trade is there already; what was traded before the start is not asked for.
        exchange.trade("BTCUSDT")
        system = start_system(
            tmp_path / "home",
            LEVIBOT_SOURCE="exchange",
            LEVIBOT_EXCHANGE_URL=exchange.url,
            LEVIBOT_SYMBOLS=",".join(SYMBOLS),
            LEVIBOT_BAR_INTERVAL="1m",
            LEVIBOT_TRAIN_START=(datetime.now(UTC) - HISTORY_BARS * MINUTE).isoformat(),
        )
        try:
            answer = system.wait_until_ready()["answer"]
            first = datetime.fromisoformat(answer["as_of"])

            assert answer["source"] == "exchange"
            assert answer["freshness"] == "FRESH"
            # The exchange already shows bars that are not finished; none of them was used.
            assert first <= datetime.now(UTC)
            wait_for(lambda: exchange.subscribed("BTCUSDT") > 0, 30, "the subscription to the trades")
            ids = exchange.trade("BTCUSDT", 50)
            wait_for(lambda: stored_trades(system) == ids, 30, "the last trade in the store")
            wait_for(
                lambda: datetime.fromisoformat(system.predict().json()["as_of"]) > first,
                90,
                "the next minute",
            )
        finally:
            system.stop()

"""The way of features into the online store, between a real PostgreSQL and a real Redis-protocol server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import NotReady
from levibot.features.engine import compute
from levibot.features.materialise import Computed, Materialised, Materialiser, OtherShard, ShardWindow
from levibot.features.shards import Shard
from levibot.features.views import CORE
from levibot.market.bars import Bars, FloatArray, Panel, to_datetime
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.stores.online import Freshness, OnlineStore
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
ROWS = 6
ALL = Shard()
# Longer than what the view remembers, so that the oldest bars have left the window.
N_BARS = CORE.warmup_bars + ROWS + 300
LATE = 200  # bars that the late symbol has
RUN = secrets.token_hex(3).upper()
SYMBOLS = (f"BTC{RUN}", f"ETH{RUN}", f"NEW{RUN}")
NOW = MARKET_START + N_BARS * HOUR


@pytest.fixture(scope="module")
def history() -> dict[str, Bars]:
    """A market with an outage in one symbol and another that is listed late."""
    source = SimulatedSource(SYMBOLS, HOUR, seed=9, edge=0.02)
    end = MARKET_START + N_BARS * HOUR
    bars = {symbol: source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS}
    down = bars[SYMBOLS[1]]
    bars[SYMBOLS[1]] = down.between(end=end - 70 * HOUR).then(down.between(end - 61 * HOUR))
    bars[SYMBOLS[2]] = bars[SYMBOLS[2]].tail(LATE)
    return bars


@pytest.fixture(scope="module")
def panel(history: dict[str, Bars]) -> Panel:
    return Panel.align(history)


@pytest.fixture(scope="module")
def batch(panel: Panel) -> FloatArray:
    """(T, S, F): what all of history gives."""
    return compute(CORE, panel)


@pytest.fixture
def market_id() -> str:
    return f"market-{secrets.token_hex(4)}"


@pytest.fixture
async def online(redis_url: str, market_id: str) -> AsyncIterator[OnlineStore]:
    clock = ManualClock(NOW)
    store = OnlineStore.open(
        redis_url,
        market_id,
        CORE.version,
        CORE.names,
        clock=clock,
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    yield store
    await store.close()


def materialiser(ticks: TickStore, online: OnlineStore, symbols: Sequence[str] = SYMBOLS) -> Materialiser:
    return Materialiser(shard_window(ticks, online, symbols), online)


def shard_window(
    ticks: TickStore, online: OnlineStore, symbols: Sequence[str] = SYMBOLS, shard: Shard = ALL
) -> ShardWindow:
    return ShardWindow(
        ticks,
        market_id=online.market_id,
        symbols=symbols,
        interval=HOUR,
        view=CORE,
        rows=ROWS,
        shard=shard,
    )


async def assert_is_history(online: OnlineStore, batch: FloatArray, end: int, closes_at: datetime) -> None:
    """Every symbol's online window is the rows of history that end before row `end`."""
    readings = await online.get_windows(SYMBOLS)
    for column, symbol in enumerate(SYMBOLS):
        reading = readings[symbol]
        assert reading.names == CORE.names
        assert reading.event_time == closes_at
        assert reading.rows is not None
        np.testing.assert_allclose(reading.rows, batch[end - ROWS : end, column], rtol=1e-9, atol=1e-12)


async def test_what_is_online_is_what_all_of_history_gives(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars], panel: Panel, batch: FloatArray
) -> None:
    running = materialiser(tick_store, online)
    for rows_left in (40, 12, 11, 10, 3, 0):
        end = len(panel) - rows_left
        closes_at = to_datetime(panel.closes_at[end - 1])
        await tick_store.write_many(online.market_id, [b.closed_by(closes_at) for b in history.values()])
        assert await running.refresh(NOW) == Materialised(closes_at, SYMBOLS)
        await assert_is_history(online, batch, end, closes_at)
    # After a crash the window is empty: read again it gives the same numbers, to the last bit.
    before = {symbol: reading.rows for symbol, reading in (await online.get_windows(SYMBOLS)).items()}
    assert await materialiser(tick_store, online).refresh(NOW) == Materialised(closes_at, SYMBOLS)
    for symbol, reading in (await online.get_windows(SYMBOLS)).items():
        np.testing.assert_array_equal(reading.rows, before[symbol])
    # The comparison was one of numbers, and of what the late symbol cannot have yet.
    assert np.isfinite(batch[-1, :2]).all()
    assert np.isnan(batch[-1, 2]).any()


async def test_a_symbol_without_the_newest_bar_keeps_its_older_vector(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars]
) -> None:
    short = {symbol: bars.tail(400) for symbol, bars in history.items()}
    end = MARKET_START + N_BARS * HOUR
    first = [bars.between(end=end - 5 * HOUR) for bars in short.values()]
    await tick_store.write_many(online.market_id, first)
    running = materialiser(tick_store, online)
    await running.refresh(NOW)
    old = (await online.get_windows(SYMBOLS))[SYMBOLS[1]]
    await tick_store.write_many(online.market_id, [short[SYMBOLS[0]], short[SYMBOLS[2]]])
    assert await running.refresh(NOW) == Materialised(end, (SYMBOLS[0], SYMBOLS[2]))
    readings = await online.get_windows(SYMBOLS)
    assert {s: r.event_time for s, r in readings.items()} == {
        SYMBOLS[0]: end,
        SYMBOLS[1]: end - 5 * HOUR,
        SYMBOLS[2]: end,
    }
    assert [readings[s].freshness for s in SYMBOLS] == [Freshness.FRESH, Freshness.STALE, Freshness.FRESH]
    np.testing.assert_array_equal(readings[SYMBOLS[1]].rows, old.rows)
    # Its bars come late: now it has the newest row as the others have.
    await tick_store.write_bars(online.market_id, short[SYMBOLS[1]])
    assert await running.refresh(NOW) == Materialised(end, SYMBOLS)
    assert (await online.get_windows(SYMBOLS))[SYMBOLS[1]].event_time == end


async def test_without_bars_nothing_is_written(tick_store: TickStore, online: OnlineStore) -> None:
    running = materialiser(tick_store, online)
    assert await running.refresh(NOW) is None
    assert await running.refresh(NOW) is None
    assert {r.freshness for r in (await online.get_windows(SYMBOLS)).values()} == {Freshness.MISSING}


async def test_the_bars_of_another_market_are_not_its_own(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars]
) -> None:
    await tick_store.write_many("another market", [bars.tail(50) for bars in history.values()])
    assert await materialiser(tick_store, online).refresh(NOW) is None


async def test_a_young_market_has_a_window_of_the_rows_there_are(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars]
) -> None:
    bars = history[SYMBOLS[0]].tail(2)
    await tick_store.write_bars(online.market_id, bars)
    assert await materialiser(tick_store, online).refresh(NOW) is not None
    reading = (await online.get_windows(SYMBOLS))[SYMBOLS[0]]
    assert reading.rows is not None
    assert reading.rows.shape == (2, len(CORE.names))
    assert "vol_slow" not in reading.values
    assert "hour_sin" in reading.values


async def test_vectors_that_were_lost_are_written_again(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars]
) -> None:
    await tick_store.write_many(online.market_id, [bars.tail(50) for bars in history.values()])
    running = materialiser(tick_store, online)
    done = await running.refresh(NOW)
    await online._client.delete(*(f"{symbol}:features:window" for symbol in SYMBOLS))
    assert (await online.get_windows(SYMBOLS))[SYMBOLS[0]].freshness is Freshness.MISSING
    assert await running.refresh(NOW) == done
    assert {r.freshness for r in (await online.get_windows(SYMBOLS)).values()} == {Freshness.FRESH}


async def test_bars_beyond_the_clock_are_not_read(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars]
) -> None:
    await tick_store.write_many(online.market_id, [bars.tail(400) for bars in history.values()])
    running = materialiser(tick_store, online)
    for as_of, event_time in ((NOW - 3 * HOUR, NOW - 3 * HOUR), (NOW - HOUR / 2, NOW - HOUR)):
        done = await running.refresh(as_of)
        assert done is not None
        assert done.event_time == event_time


async def test_several_shards_write_one_cross_section(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars], panel: Panel, batch: FloatArray
) -> None:
    shards = [shard_window(tick_store, online, shard=Shard(n, 3)) for n in range(3)]
    away = [False]

    def other(n: int) -> OtherShard:
        async def answer(as_of: datetime) -> Computed | None:
            if away[0]:
                raise NotReady("It does not answer.")
            await shards[n].read(as_of)
            return shards[n].compute()

        return OtherShard(Shard(n, 3), answer)

    running = Materialiser(shards[0], online, [other(1), other(2)])
    before = NOW - HOUR
    await tick_store.write_many(online.market_id, [b.closed_by(before) for b in history.values()])
    done = await running.refresh(NOW)
    assert done is not None
    assert (done.event_time, set(done.symbols), done.problems) == (before, set(SYMBOLS), ())
    await assert_is_history(online, batch, len(panel) - 1, before)
    # While the other shards are away, theirs grow old; they catch up at the first pass after it.
    await tick_store.write_many(online.market_id, history.values())
    away[0] = True
    own = Shard(0, 3).owned(SYMBOLS)
    done = await running.refresh(NOW)
    assert done is not None
    assert (done.event_time, done.symbols, set(done.waiting)) == (NOW, own, set(SYMBOLS) - set(own))
    assert [problem.partition(": ")[2] for problem in done.problems] == ["It does not answer."] * 2
    readings = await online.get_windows(SYMBOLS)
    assert {s for s, r in readings.items() if r.event_time == NOW} == set(own)
    away[0] = False
    done = await running.refresh(NOW)
    assert done is not None
    assert (set(done.symbols), done.problems) == (set(SYMBOLS), ())
    await assert_is_history(online, batch, len(panel), NOW)


async def test_a_shard_that_lags_is_left_out_and_never_mixed_in(
    tick_store: TickStore, online: OnlineStore, history: dict[str, Bars]
) -> None:
    await tick_store.write_many(online.market_id, [bars.tail(400) for bars in history.values()])
    late = shard_window(tick_store, online, shard=Shard(1, 2))
    await late.read(NOW - HOUR)

    async def lags(as_of: datetime) -> Computed | None:
        return late.compute()

    done = await Materialiser(
        shard_window(tick_store, online, shard=Shard(0, 2)), online, [OtherShard(Shard(1, 2), lags)]
    ).refresh(NOW)
    assert done is not None
    assert done.symbols == Shard(0, 2).owned(SYMBOLS)
    assert set(done.waiting) == set(Shard(1, 2).owned(SYMBOLS))
    assert "does not know the newest bars" in done.problems[0]

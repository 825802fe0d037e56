"""What the tick store promises, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import FIELDS, Bars, to_datetime
from levibot.stores.ticks import CHUNK_ROWS, TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
START = datetime(2024, 2, 28, 22, tzinfo=UTC)  # a leap day is near


def bars(symbol: str, n: int, start: datetime = START, interval: timedelta = HOUR, seed: int = 0) -> Bars:
    """`n` random bars without gaps."""
    rng = np.random.default_rng(seed)
    ts = np.datetime64(start.replace(tzinfo=None), "us") + np.arange(n) * np.timedelta64(interval)
    close = 100.0 * np.exp(rng.normal(0.0, 0.01, n).cumsum())
    spread = close * rng.uniform(0.0, 0.01, n)
    return Bars(symbol, interval, ts, close - spread / 3, close + spread, close - spread, close, close * 1e-3)


def assert_equal(left: Bars, right: Bars) -> None:
    """Every bit: nothing is rounded on the way."""
    assert (left.symbol, left.interval) == (right.symbol, right.interval)
    assert left.ts.dtype == right.ts.dtype == np.dtype("datetime64[us]")
    np.testing.assert_array_equal(left.ts, right.ts)
    for field in FIELDS:
        assert getattr(left, field).dtype == np.float64
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


async def test_bars_come_back_bit_for_bit(tick_store: TickStore) -> None:
    written = bars("BTCUSDT", 2 * CHUNK_ROWS + 17)
    assert await tick_store.write_bars("m", written) == len(written)
    assert_equal(await tick_store.read_bars("m", "BTCUSDT", HOUR), written)


async def test_extreme_values_and_instants_are_kept(tick_store: TickStore) -> None:
    ts = np.array(["1969-12-31T23:59:59.999999", "2000-01-01T00:00:00.000001", "2199-06-01"], "M8[us]")
    tiny, huge = np.full(3, 5e-324), np.full(3, 1.7976931348623157e308)
    written = Bars("X", HOUR, ts, tiny, huge, tiny, np.full(3, 0.1 + 0.2), np.zeros(3))
    await tick_store.write_bars("m", written)
    assert_equal(await tick_store.read_bars("m", "X", HOUR), written)


async def test_writing_twice_adds_nothing(tick_store: TickStore) -> None:
    written = bars("BTCUSDT", 50)
    assert await tick_store.write_bars("m", written.tail(20)) == 20
    assert await tick_store.write_bars("m", written) == 30
    assert await tick_store.write_bars("m", written) == 0
    assert_equal(await tick_store.read_bars("m", "BTCUSDT", HOUR), written)


async def test_the_first_writer_of_a_bar_wins(tick_store: TickStore) -> None:
    first, other = bars("BTCUSDT", 5, seed=1), bars("BTCUSDT", 5, seed=2)
    await tick_store.write_bars("m", first)
    assert await tick_store.write_bars("m", other) == 0
    assert_equal(await tick_store.read_bars("m", "BTCUSDT", HOUR), first)


async def test_a_range_holds_its_start_and_not_its_end(tick_store: TickStore) -> None:
    written = bars("BTCUSDT", 10)
    await tick_store.write_bars("m", written)
    start, end = to_datetime(written.ts[2]), to_datetime(written.ts[7])
    us = timedelta(microseconds=1)
    for low, high in [(start, end), (start + us, end + us), (None, end), (start, None), (end, start)]:
        read = await tick_store.read_bars("m", "BTCUSDT", HOUR, low, high)
        assert_equal(read, written.between(low, high))


async def test_bounds_in_another_time_zone_mean_the_same_instant(tick_store: TickStore) -> None:
    from zoneinfo import ZoneInfo

    written = bars("BTCUSDT", 10)
    await tick_store.write_bars("m", written)
    start = to_datetime(written.ts[4]).astimezone(ZoneInfo("Asia/Kolkata"))
    assert_equal(await tick_store.read_bars("m", "BTCUSDT", HOUR, start), written.between(start))


async def test_markets_symbols_and_intervals_are_kept_apart(tick_store: TickStore) -> None:
    five = timedelta(minutes=5)
    await tick_store.write_many("one", [bars("A", 3), bars("B", 4), bars("A", 5, interval=five)])
    await tick_store.write_bars("two", bars("A", 6))
    sizes = [
        len(await tick_store.read_bars(market, symbol, interval))
        for market, symbol, interval in [
            ("one", "A", HOUR),
            ("one", "B", HOUR),
            ("one", "A", five),
            ("two", "A", HOUR),
            ("two", "B", HOUR),
        ]
    ]
    assert sizes == [3, 4, 5, 6, 0]


async def test_the_tail_is_the_newest_bars_oldest_first(tick_store: TickStore) -> None:
    many, few = bars("MANY", 30, seed=1), bars("FEW", 4, seed=2)
    assert await tick_store.write_many("m", [many, few]) == 34
    tail = await tick_store.read_tail("m", ["FEW", "NONE", "MANY"], HOUR, 10)
    assert list(tail) == ["FEW", "NONE", "MANY"]
    assert_equal(tail["MANY"], many.tail(10))
    assert_equal(tail["FEW"], few)
    assert len(tail["NONE"]) == 0


async def test_the_last_instant_is_that_of_the_newest_bar(tick_store: TickStore) -> None:
    written = bars("A", 9)
    await tick_store.write_many("m", [written, bars("B", 1)])
    last = await tick_store.last_ts("m", ["A", "B", "NONE"], HOUR)
    assert last == {"A": to_datetime(written.ts[-1]), "B": START}
    assert all(ts.tzinfo is not None for ts in last.values())


async def test_writing_nothing_is_no_error(tick_store: TickStore) -> None:
    assert await tick_store.write_many("m", []) == 0
    assert await tick_store.write_bars("m", bars("A", 0)) == 0


@pytest.mark.parametrize(
    ("field", "value"), [("close", np.nan), ("high", np.inf), ("volume", -1.0), ("low", 0.0)]
)
async def test_a_broken_bar_is_refused_with_everything_beside_it(
    tick_store: TickStore, field: str, value: float
) -> None:
    good, bad = bars("GOOD", 5), bars("ZBAD", 5)
    getattr(bad, field)[3] = value
    with pytest.raises(DataError, match="bars_are_finite"):
        await tick_store.write_many("m", [good, bad])
    assert await tick_store.last_ts("m", ["GOOD", "ZBAD"], HOUR) == {}


async def test_an_interval_is_whole_seconds(tick_store: TickStore) -> None:
    with pytest.raises(DataError, match="whole number of seconds"):
        await tick_store.read_bars("m", "A", timedelta(milliseconds=1500))


async def test_writers_of_the_same_bars_share_them(tick_store: TickStore) -> None:
    series = [bars(symbol, 400, seed=i) for i, symbol in enumerate("ABCDEF")]
    orders = [series, series[::-1], series[3:] + series[:3]] * 3
    new = await asyncio.gather(*(tick_store.write_many("m", order) for order in orders))
    assert sum(new) == 2400
    for written in series:
        assert_equal(await tick_store.read_bars("m", written.symbol, HOUR), written)


async def test_ping_answers(tick_store: TickStore) -> None:
    assert 0.0 < await tick_store.ping() < 2.0


async def test_a_killed_writer_leaves_all_of_its_bars_or_none(tick_store: TickStore) -> None:
    series = [bars(symbol, CHUNK_ROWS, seed=i) for i, symbol in enumerate("ABCDEF")]
    writing = asyncio.create_task(tick_store.write_many("m", series))
    await asyncio.sleep(0.1)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert writing.cancelled()
    assert await tick_store.last_ts("m", list("ABCDEF"), HOUR) == {}
    assert await tick_store.write_many("m", series) == 6 * CHUNK_ROWS


async def test_more_callers_than_connections_are_all_served(tick_store: TickStore) -> None:
    await tick_store.write_bars("m", bars("A", 1000))
    read = await asyncio.gather(*(tick_store.read_bars("m", "A", HOUR) for _ in range(60)))
    assert {len(b) for b in read} == {1000}

"""What the table of trades promises, on real servers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import to_datetime
from levibot.market.ticks import COLUMNS, Ticks, joined
from levibot.stores.tick_table import COPY_ROWS
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

# Near now: TimescaleDB's retention measures by its own clock. Whole hours, across a midnight.
TODAY = np.datetime64("now", "D").astype("datetime64[us]")
START = TODAY - np.timedelta64(26, "h")


def ticks(
    symbol: str,
    n: int,
    *,
    first_id: int = 1,
    start: np.datetime64 = START,
    every_ms: int = 100,
    seed: int = 0,
) -> Ticks:
    """`n` random trades, one each `every_ms`, with ids in their order."""
    rng = np.random.default_rng(seed)
    return Ticks(
        symbol,
        start + np.arange(n) * np.timedelta64(every_ms, "ms"),
        100.0 * np.exp(rng.normal(0.0, 1e-4, n).cumsum()),
        rng.exponential(1.0, n) + 1e-6,
        np.arange(first_id, first_id + n),
        rng.random(n) < 0.5,
    )


def assert_equal(left: Ticks, right: Ticks) -> None:
    """Every bit: nothing is rounded on the way."""
    assert left.symbol == right.symbol
    for name in COLUMNS:
        assert getattr(left, name).dtype == getattr(right, name).dtype
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


async def test_trades_come_back_bit_for_bit(tick_store: TickStore) -> None:
    written = ticks("BTCUSDT", COPY_ROWS + 17)
    assert await tick_store.ticks.write("m", [written]) == len(written)
    assert_equal(await tick_store.ticks.read("m", "BTCUSDT"), written)


async def test_extreme_values_are_kept(tick_store: TickStore) -> None:
    written = Ticks(
        "X",
        START + np.array([0, 1, 999_999], "m8[us]"),
        np.array([1e-15, 0.1 + 0.2, 1e15]),
        np.array([1e15, 1.0 / 3.0, 1e-15]),
        np.array([1, 2, 2**63 - 1]),
        np.array([True, False, True]),
    )
    await tick_store.ticks.write("m", [written])
    assert_equal(await tick_store.ticks.read("m", "X"), written)


async def test_writing_twice_adds_nothing(tick_store: TickStore) -> None:
    written = ticks("BTCUSDT", 500)
    assert await tick_store.ticks.write("m", [written.rows(slice(200, 300))]) == 100
    assert await tick_store.ticks.write("m", [written]) == 400
    assert await tick_store.ticks.write("m", [written]) == 0
    assert await tick_store.ticks.write("m", [written, written]) == 0
    assert_equal(await tick_store.ticks.read("m", "BTCUSDT"), written)


async def test_any_order_and_any_batches_end_in_the_same_rows(tick_store: TickStore) -> None:
    written = ticks("BTCUSDT", 900, every_ms=200_000)  # two days: several partitions
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(900), 2))
    new = [await tick_store.ticks.write("m", [written.rows(part)]) for part in np.array_split(order, 7)]
    assert sum(new) == 900
    assert_equal(await tick_store.ticks.read("m", "BTCUSDT"), written)


async def test_the_first_writer_of_a_trade_wins_in_whichever_partition_it_lies(tick_store: TickStore) -> None:
    first = ticks("BTCUSDT", 5, seed=1)
    other = ticks("BTCUSDT", 5, seed=2, start=START + np.timedelta64(25, "h"))
    await tick_store.ticks.write("m", [first])
    assert await tick_store.ticks.write("m", [other]) == 0
    assert await tick_store.ticks.write("m", [joined([other, ticks("BTCUSDT", 1, first_id=6)])]) == 1
    assert_equal((await tick_store.ticks.read("m", "BTCUSDT")).distinct().rows(slice(0, 1)), first.rows([0]))
    assert len(await tick_store.ticks.read("m", "BTCUSDT")) == 6


async def test_ids_that_do_not_grow_with_time_are_known_again(tick_store: TickStore) -> None:
    rng = np.random.default_rng(5)
    written = ticks("BTCUSDT", 400)
    ids = rng.choice(2**62, 400, replace=False) + 1
    scattered = Ticks("BTCUSDT", written.ts, written.price, written.size, ids, written.is_buyer_maker)
    await tick_store.ticks.write("m", [scattered.rows(slice(0, 250))])
    assert await tick_store.ticks.write("m", [scattered.rows(slice(150, 400))]) == 150
    assert_equal(await tick_store.ticks.read("m", "BTCUSDT"), scattered)


async def test_writers_of_the_same_trades_share_them(tick_store: TickStore) -> None:
    series = [ticks(symbol, 700, seed=i, every_ms=200_000) for i, symbol in enumerate(["AA", "BB", "CC"])]
    orders = [series, series[::-1], [part.rows(slice(300, 700)) for part in series]] * 3
    new = await asyncio.gather(*(tick_store.ticks.write("m", order) for order in orders))
    assert sum(new) == 2100
    for written in series:
        assert_equal(await tick_store.ticks.read("m", written.symbol), written)


async def test_markets_and_symbols_are_kept_apart(tick_store: TickStore) -> None:
    assert await tick_store.ticks.write("one", [ticks("AA", 3), ticks("BB", 4)]) == 7
    assert await tick_store.ticks.write("two", [ticks("AA", 5)]) == 5
    sizes = [len(await tick_store.ticks.read(m, s)) for m in ("one", "two") for s in ("AA", "BB")]
    assert sizes == [3, 4, 5, 0]


async def test_a_range_holds_its_start_and_not_its_end(tick_store: TickStore) -> None:
    written = ticks("BTCUSDT", 10)
    await tick_store.ticks.write("m", [written])
    start, end = to_datetime(written.ts[2]), to_datetime(written.ts[7])
    assert_equal(await tick_store.ticks.read("m", "BTCUSDT", start, end), written.rows(slice(2, 7)))
    us = timedelta(microseconds=1)
    assert_equal(await tick_store.ticks.read("m", "BTCUSDT", start + us, end + us), written.rows(slice(3, 8)))
    assert len(await tick_store.ticks.read("m", "BTCUSDT", end, start)) == 0


async def test_the_last_trade_is_the_newest(tick_store: TickStore) -> None:
    written = ticks("AA", 9, every_ms=20_000_000)
    await tick_store.ticks.write("m", [written.rows(slice(None, None, -1)), ticks("BB", 1, first_id=7)])
    assert await tick_store.ticks.last("m", ["AA", "BB", "NONE"]) == {
        "AA": (to_datetime(written.ts[-1]), 9),
        "BB": (to_datetime(START), 7),
    }


async def test_writing_nothing_is_no_error(tick_store: TickStore) -> None:
    assert await tick_store.ticks.write("m", []) == 0
    assert await tick_store.ticks.write("m", [ticks("AA", 0)]) == 0


async def test_a_broken_trade_is_refused_with_everything_beside_it(tick_store: TickStore) -> None:
    good, bad = ticks("GOOD", 5), ticks("ZBAD", 5)
    bad.price[3] = np.nan
    with pytest.raises(DataError, match="Trade 4 of ZBAD, row 3: price nan"):
        await tick_store.ticks.write("m", [good, bad])
    assert await tick_store.ticks.last("m", ["GOOD", "ZBAD"]) == {}

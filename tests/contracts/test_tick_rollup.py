"""What the bars of 1 s and 5 s promise: whatever came when, they are those of one pass over all trades."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.market.bars import to_datetime
from levibot.market.ticks import Ticks
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

SECOND, FIVE = timedelta(seconds=1), timedelta(seconds=5)
# Late enough for TimescaleDB's retention, early enough that its policies must be told.
START = np.datetime64("now", "h").astype("datetime64[us]") - np.timedelta64(50, "h")


def trades(symbol: str, rows: list[tuple[int, int, float, float]]) -> Ticks:
    """Trades of (id, milliseconds after START, price, size)."""
    ids, ms, price, size = (np.array(column) for column in zip(*rows, strict=True))
    return Ticks(
        symbol,
        START + ms * np.timedelta64(1, "ms"),
        price.astype(float),
        size.astype(float),
        ids,
        ids % 2 == 0,
    )


def expected(ticks: Ticks, interval: timedelta) -> list[tuple[Any, ...]]:
    """The bars of one pass over trades in their order: a plain loop, row by row."""
    groups: dict[datetime, list[Any]] = {}
    for tick in ticks.distinct().sorted():
        opens_at = tick.ts - (tick.ts - datetime(1970, 1, 1, tzinfo=UTC)) % interval
        groups.setdefault(opens_at, []).append(tick)
    return [
        (
            opens_at,
            group[0].price,
            max(t.price for t in group),
            min(t.price for t in group),
            group[-1].price,
            sum(t.size for t in group),
            sum(t.price * t.size for t in group) / sum(t.size for t in group),
            len(group),
        )
        for opens_at, group in sorted(groups.items())
    ]


async def is_plain(store: TickStore) -> bool:
    async with store._client.connection("test") as (db, _):
        return bool(await db.fetchval("SELECT to_regclass('tick_m1s_rows') IS NOT NULL"))


async def assert_exact(store: TickStore, ticks: Ticks, market_id: str = "m") -> None:
    for interval in (SECOND, FIVE):
        bars = await store.rollup.read(market_id, ticks.symbol, interval)
        want = list(zip(*expected(ticks, interval), strict=True)) or [()] * 8
        assert [to_datetime(ts) for ts in bars.ts] == list(want[0])
        for name, column in zip(("open", "high", "low", "close"), want[1:5], strict=True):
            assert getattr(bars, name).tolist() == list(column), name
        # Sums of doubles in another order.
        np.testing.assert_allclose(bars.volume, want[5], rtol=1e-9)
        np.testing.assert_allclose(bars.vwap, want[6], rtol=1e-9)
        assert bars.n_ticks.tolist() == list(want[7])


async def test_bars_are_exact_before_and_after_the_roll_up(tick_store: TickStore) -> None:
    ticks = trades("AA", [(1, 0, 10, 2), (2, 400, 12, 1), (3, 900, 9, 1), (4, 1000, 11, 1), (5, 6500, 13, 3)])
    await tick_store.ticks.write("m", [ticks])
    if await is_plain(tick_store):
        await assert_exact(tick_store, ticks)
    assert await tick_store.rollup.roll_up() > 0
    await assert_exact(tick_store, ticks)
    assert await tick_store.rollup.roll_up() == 0


async def test_late_trades_change_their_bars_and_duplicates_do_not(tick_store: TickStore) -> None:
    ticks = trades("AA", [(n, 300 * n, 10 + n % 7, 1 + n % 3) for n in range(1, 60)])
    early, late = ticks.rows(ticks.trade_id % 5 != 0), ticks.rows(ticks.trade_id % 5 == 0)
    await tick_store.ticks.write("m", [early])
    await tick_store.rollup.roll_up()
    await tick_store.ticks.write("m", [late])
    if await is_plain(tick_store):
        await assert_exact(tick_store, ticks)
    await tick_store.rollup.roll_up()
    await assert_exact(tick_store, ticks)
    assert await tick_store.ticks.write("m", [ticks, early]) == 0
    assert await tick_store.rollup.roll_up() == 0
    await assert_exact(tick_store, ticks)


async def test_open_and_close_of_one_instant_go_by_the_trade_id(tick_store: TickStore) -> None:
    ticks = trades("AA", [(9, 0, 19, 1), (7, 0, 17, 1), (8, 0, 18, 1), (10**18, 1, 5, 1), (3, 1, 6, 1)])
    await tick_store.ticks.write("m", [ticks])
    await tick_store.rollup.roll_up()
    bars = await tick_store.rollup.read("m", "AA", SECOND)
    assert (bars.open.tolist(), bars.close.tolist()) == ([17.0], [5.0])
    await assert_exact(tick_store, ticks)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 8_000), st.floats(1e-3, 1e6), st.floats(1e-6, 1e4)), min_size=1, max_size=40
    ),
    data=st.data(),
)
@hypothesis_settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
async def test_any_arrival_in_any_batches_makes_the_bars_of_one_pass(
    tick_store: TickStore, rows: list[tuple[int, float, float]], data: st.DataObject
) -> None:
    market = f"m{np.random.default_rng().integers(2**60)}"
    ticks = trades("AA", [(n, *row) for n, row in enumerate(rows, 1)])
    order = np.array(data.draw(st.permutations([*range(len(rows)), *range(len(rows))])))
    cuts = data.draw(st.lists(st.integers(0, len(order)), max_size=4).map(sorted))
    for part in np.split(order, cuts):
        await tick_store.ticks.write(market, [ticks.rows(part)])
        if data.draw(st.booleans()):
            await tick_store.rollup.roll_up()
    await tick_store.rollup.roll_up()
    await assert_exact(tick_store, ticks, market)


async def test_a_reader_beside_writers_and_roll_ups_sees_whole_bars(tick_store: TickStore) -> None:
    if not await is_plain(tick_store):
        pytest.skip("TimescaleDB shows late trades after its refresh")
    ticks = trades("AA", [(n, 20 * n, 10 + n % 7, 1) for n in range(1, 601)])
    batches = [ticks.rows(slice(at, at + 50)) for at in np.random.default_rng(1).permutation(12) * 50]
    is_done = asyncio.Event()

    async def write() -> None:
        for batch in batches:
            await tick_store.ticks.write("m", [batch])
        is_done.set()

    async def roll_up() -> None:
        while not is_done.is_set():
            await tick_store.rollup.roll_up()

    async def read() -> list[int]:
        seen = []
        while not is_done.is_set():
            seen.append(int((await tick_store.rollup.read("m", "AA", SECOND)).n_ticks.sum()))
        return seen

    _, _, _, *seen = await asyncio.gather(write(), roll_up(), roll_up(), read(), read())
    for counts in seen:
        # Never part of a batch, never one twice, never fewer than before.
        assert {n % 50 for n in counts} == {0}
        assert counts == sorted(counts)
    await tick_store.rollup.roll_up()
    await assert_exact(tick_store, ticks)


async def test_symbols_and_markets_are_kept_apart(tick_store: TickStore) -> None:
    one, two = trades("AA", [(1, 0, 10, 1)]), trades("BB", [(1, 0, 20, 1)])
    await tick_store.ticks.write("m", [one, two])
    await tick_store.ticks.write("other", [trades("AA", [(1, 0, 30, 1)])])
    await tick_store.rollup.roll_up()
    await assert_exact(tick_store, one)
    await assert_exact(tick_store, two)


async def test_a_range_and_an_age_are_of_the_bars(tick_store: TickStore) -> None:
    await tick_store.ticks.write("m", [trades("AA", [(n, 1000 * n, 10, 1) for n in range(1, 11)])])
    await tick_store.rollup.roll_up()
    start, end = to_datetime(START) + 3 * SECOND, to_datetime(START) + 6 * SECOND
    assert len(await tick_store.rollup.read("m", "AA", SECOND, start, end)) == 3
    assert await tick_store.rollup.age_s("m", SECOND) is None
    now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us")
    await tick_store.ticks.write("m", [trades("AA", [(99, int((now - START).astype(int)) // 1000, 10, 1)])])
    for interval in (SECOND, FIVE):
        age = await tick_store.rollup.age_s("m", interval)
        assert age is not None
        assert 0.0 <= age < 60.0
    with pytest.raises(DataError, match="no bars of 0:00:02"):
        await tick_store.rollup.read("m", "AA", timedelta(seconds=2))


async def test_a_planted_fault_in_a_stored_bar_is_found(tick_store: TickStore, database_dsn: str) -> None:
    if not await is_plain(tick_store):
        pytest.skip("the aggregate's own table cannot be written to")
    ticks = trades("AA", [(1, 0, 10, 2), (2, 400, 12, 1)])
    await tick_store.ticks.write("m", [ticks])
    await tick_store.rollup.roll_up()
    admin = await asyncpg.connect(database_dsn, statement_cache_size=0)
    await admin.execute("UPDATE tick_m1s_rows SET close = 11")
    await admin.close()
    with pytest.raises(AssertionError, match="close"):
        await assert_exact(tick_store, ticks)

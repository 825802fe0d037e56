"""What native partitions promise: nothing is lost to a missing one, nothing returns into a dropped one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.ticks import Ticks
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

NOW = datetime(2024, 8, 9, 0, 5, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def ticks(n: int, start: datetime, first_id: int = 1, every: timedelta = SECOND) -> Ticks:
    ts = np.datetime64(start.replace(tzinfo=None), "us") + np.arange(n) * np.timedelta64(every)
    ids = np.arange(first_id, first_id + n)
    return Ticks("BTCUSDT", ts, 100.0 + ids, np.ones(n), ids, ids % 2 == 0)


@pytest.fixture
async def plain_store(tick_store: TickStore, database_dsn: str) -> TickStore:
    """The store with the database's native partitions; TimescaleDB makes its own."""
    if await names(database_dsn, "time_tables") is None:
        pytest.skip("TimescaleDB partitions by itself")
    return tick_store


async def names(dsn: str, table: str = "ticks") -> list[str] | None:
    """The partitions of a table as PostgreSQL has them, None when there is no such table."""
    db = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        if await db.fetchval("SELECT to_regclass($1) IS NULL", table):
            return None
        rows = await db.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass($1) ORDER BY 1",
            table,
        )
        return [row[0] for row in rows]
    finally:
        await db.close()


async def run(dsn: str, sql: str) -> None:
    db = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        await db.execute(sql)
    finally:
        await db.close()


async def test_partitions_are_made_ahead_however_many_ask(plain_store: TickStore, database_dsn: str) -> None:
    passes = await asyncio.gather(*(plain_store.partitions.maintain(NOW) for _ in range(4)))
    assert sum(p.n_made for p in passes) == 3 + 2 + 2
    days = ["ticks_20240809_00", "ticks_20240810_00", "ticks_20240811_00"]
    assert await names(database_dsn) == days
    assert (await plain_store.partitions.maintain(NOW)).n_made == 0
    assert await plain_store.ticks.write("m", [ticks(50, NOW)]) == 50
    assert await names(database_dsn) == days
    assert (await plain_store.partitions.maintain(NOW + DAY)).n_made == 1


async def test_late_trades_of_days_without_a_partition_get_one(
    plain_store: TickStore, database_dsn: str
) -> None:
    written = ticks(40, NOW - 20 * DAY, every=timedelta(hours=18))
    await asyncio.gather(*(plain_store.ticks.write("m", [written.rows(slice(k, None, 2))]) for k in (0, 1)))
    read = await plain_store.ticks.read("m", "BTCUSDT")
    np.testing.assert_array_equal(read.trade_id, written.trade_id)
    made = await names(database_dsn)
    assert made is not None
    assert len(made) == len(np.unique(written.ts.astype("M8[D]")))


async def test_retention_drops_old_partitions_once_their_bars_are_made(
    plain_store: TickStore, database_dsn: str
) -> None:
    old, new = ticks(100, NOW - 40 * DAY), ticks(10, NOW, first_id=1000)
    await plain_store.ticks.write("m", [old, new])
    waiting = await plain_store.partitions.maintain(NOW)
    assert (waiting.dropped, waiting.postponed) == ((), ("ticks_20240630_00",))
    await plain_store.rollup.roll_up()
    bars = await plain_store.rollup.read("m", "BTCUSDT", SECOND)
    passes = await asyncio.gather(*(plain_store.partitions.maintain(NOW) for _ in range(3)))
    assert [name for p in passes for name in p.dropped] == ["ticks_20240630_00"]
    assert len(await plain_store.ticks.read("m", "BTCUSDT")) == 10
    # The bars outlive the trades.
    after = await plain_store.rollup.read("m", "BTCUSDT", SECOND)
    np.testing.assert_array_equal(after.close, bars.close)
    assert after.n_ticks.sum() == 110


async def test_trades_do_not_come_back_into_a_dropped_partition(plain_store: TickStore) -> None:
    old = ticks(100, NOW - 40 * DAY)
    await plain_store.ticks.write("m", [old.rows(slice(0, 60))])
    await plain_store.rollup.roll_up()
    await plain_store.partitions.maintain(NOW)
    # Counted anew they would replace bars of trades that are gone.
    with pytest.raises(DataError, match="older than ticks are kept"):
        await plain_store.ticks.write("m", [old, ticks(5, NOW, first_id=500)])
    await plain_store.rollup.roll_up()
    assert (await plain_store.rollup.read("m", "BTCUSDT", SECOND)).n_ticks.sum() == 60
    assert await plain_store.ticks.last("m", ["BTCUSDT"]) == {}


async def test_bars_are_dropped_by_their_own_retention_and_may_be_made_again(
    plain_store: TickStore, database_dsn: str
) -> None:
    await plain_store.ticks.write("m", [ticks(10, NOW - 200 * DAY)])
    await plain_store.rollup.roll_up()
    maintained = await plain_store.partitions.maintain(NOW)
    assert {name.rsplit("_", 2)[0] for name in maintained.dropped} == {"ticks", "tick_m1s_rows"}
    assert len(await plain_store.rollup.read("m", "BTCUSDT", SECOND)) == 0
    assert len(await plain_store.rollup.read("m", "BTCUSDT", 5 * SECOND)) > 0
    # Another day of the same week of bars.
    await plain_store.ticks.write("m", [ticks(7, NOW - 199 * DAY, first_id=50)])
    await plain_store.rollup.roll_up()
    assert len(await plain_store.rollup.read("m", "BTCUSDT", SECOND)) == 7


async def test_another_partition_length_holds_from_then_on(plain_store: TickStore, database_dsn: str) -> None:
    await plain_store.ticks.write("m", [ticks(10, NOW)])
    await run(database_dsn, "UPDATE time_tables SET partition_every = '7 days' WHERE table_name = 'ticks'")
    written = ticks(9, NOW - 4 * DAY, first_id=100, every=DAY)
    await plain_store.ticks.write("m", [written])
    assert await plain_store.ticks.last("m", ["BTCUSDT"]) == {"BTCUSDT": (NOW + 4 * DAY, 108)}
    # Clipped to what was there: a week on either side of the day.
    assert await names(database_dsn) == [
        "ticks_20240805_00",
        "ticks_20240809_00",
        "ticks_20240810_00",
        "ticks_20240812_00",
    ]
    await run(database_dsn, "UPDATE time_tables SET partition_every = '1 hour' WHERE table_name = 'ticks'")
    assert (
        await plain_store.ticks.write("m", [ticks(48, NOW + 8 * DAY, first_id=200, every=SECOND * 3600)])
        == 48
    )


async def test_a_partition_in_use_is_dropped_later(plain_store: TickStore, database_dsn: str) -> None:
    await plain_store.ticks.write("m", [ticks(10, NOW - 40 * DAY)])
    await plain_store.rollup.roll_up()
    reader = await asyncpg.connect(database_dsn, statement_cache_size=0)
    async with reader.transaction():
        await reader.fetch("SELECT * FROM ticks")
        assert (await plain_store.partitions.maintain(NOW)).postponed == ("ticks_20240630_00",)
    await reader.close()
    assert (await plain_store.partitions.maintain(NOW)).dropped == ("ticks_20240630_00",)

"""Trades on their way into a real PostgreSQL: from a file that breaks, and as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levibot.errors import DataError, SourceUnavailable, StoreUnavailable
from levibot.market.intake import Account, Intake
from levibot.market.ticks import COLUMNS, Ticks
from levibot.market.trade_ingest import MAX_WAITING_BATCHES, TradeIngest, load_trades
from levibot.market.trades_parquet import ParquetTrades
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

N = 500
MARKET_ID = "m"


def trades(n: int = N, symbol: str = "BTCUSDT", first_id: int = 900) -> Ticks:
    return Ticks(
        symbol,
        np.datetime64("2024-08-09", "us") + np.arange(n) * np.timedelta64(40, "ms"),
        60_000.0 + np.arange(n) / 8,
        0.5 + np.arange(n) / 16,
        first_id + np.arange(n),
        np.arange(n) % 2 == 0,
    )


def write(folder: Path, rows: Ticks, **changed: Any) -> ParquetTrades:
    (folder / "trades").mkdir(exist_ok=True)
    columns = {name: getattr(rows, name) for name in COLUMNS} | changed
    pq.write_table(pa.table(columns), folder / "trades" / "BTCUSDT.parquet", row_group_size=100)
    return ParquetTrades(folder, ("BTCUSDT",), batch_rows=100)


async def assert_stored(store: TickStore, expected: Ticks) -> None:
    found = await store.ticks.read(MARKET_ID, expected.symbol)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


async def test_a_file_is_stored_whole_and_a_repeat_adds_nothing(
    tick_store: TickStore, tmp_path: Path
) -> None:
    recorded = write(tmp_path, trades())
    seen: list[tuple[str, int]] = []
    intake = Intake(tick_store, MARKET_ID)
    done = await load_trades(recorded, "BTCUSDT", intake, lambda *step: seen.append(step))
    assert done == Account(n_new=N)
    assert seen == [("BTCUSDT", n) for n in range(100, N + 1, 100)]
    await assert_stored(tick_store, trades())
    assert await load_trades(recorded, "BTCUSDT", intake) == Account(n_there=N)
    await assert_stored(tick_store, trades())


async def test_broken_rows_go_to_quarantine_and_the_rest_goes_in(
    tick_store: TickStore, tmp_path: Path
) -> None:
    price = trades().price.copy()
    price[[3, 250]] = -1.0, np.nan
    done = await load_trades(write(tmp_path, trades(), price=price), "BTCUSDT", Intake(tick_store, MARKET_ID))
    assert done == Account(n_new=N - 2, reasons={"not_positive": 1, "not_finite": 1})
    await assert_stored(tick_store, trades().rows(np.delete(np.arange(N), [3, 250])))
    kept = await tick_store.quarantine.read(MARKET_ID)
    assert {(q.refused.reason, q.refused.row["price"]) for q in kept} == {
        ("not_positive", -1.0),
        ("not_finite", "nan"),
    }


async def test_a_file_that_ends_in_damage_is_stored_up_to_it_and_completed_when_mended(
    tick_store: TickStore, tmp_path: Path
) -> None:
    recorded = write(tmp_path, trades())
    path = tmp_path / "trades" / "BTCUSDT.parquet"
    whole = path.read_bytes()
    column = pq.read_metadata(path).row_group(2).column(1)
    at, size = column.data_page_offset, column.total_compressed_size
    path.write_bytes(whole[:at] + b"\xff" * size + whole[at + size :])
    intake = Intake(tick_store, MARKET_ID)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        await load_trades(recorded, "BTCUSDT", intake)
    await assert_stored(tick_store, trades().rows(slice(0, 200)))
    path.write_bytes(whole)
    assert await load_trades(recorded, "BTCUSDT", intake) == Account(n_new=300, n_there=200)
    await assert_stored(tick_store, trades())


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[tuple[EmbeddedServers, str]]:
    """A PostgreSQL of this test alone, to be killed."""
    servers = EmbeddedServers(Settings.load(home=tmp_path / "home", redis_url="redis://unused"))
    try:
        yield servers, servers.start().postgres_dsn
    finally:
        servers.stop()


async def test_a_store_that_dies_midway_keeps_what_was_told_and_a_repeat_completes_it(
    own_postgres: tuple[EmbeddedServers, str], tmp_path: Path
) -> None:
    servers, dsn = own_postgres
    store = await TickStore.open(dsn)
    await store.migrate()
    recorded = write(tmp_path, trades())
    told: list[int] = []

    def progress(_: str, n_rows: int) -> None:
        told.append(n_rows)
        if n_rows == 200:
            # All of it: on a busy machine a backend whose postmaster is dead may serve to the end before it
            # notices, and holds the memory that the next one needs.
            dead.extend([server, *server.children(recursive=True)])
            for process in dead:
                process.kill()

    dead: list[psutil.Process] = []
    server = psutil.Process(servers.pids()["postgres"])
    with pytest.raises(StoreUnavailable):
        await load_trades(recorded, "BTCUSDT", Intake(store, MARKET_ID), progress)
    _, alive = psutil.wait_procs(dead, timeout=30)
    assert not alive
    assert servers.restart_dead() == ["postgres"]
    n_there = len(await eventually_read(store))
    assert n_there >= told[-1] == 200
    done = await load_trades(recorded, "BTCUSDT", Intake(store, MARKET_ID))
    assert done == Account(n_new=N - n_there, n_there=n_there)
    await assert_stored(store, trades())
    await store.close()


async def eventually_read(store: TickStore) -> Ticks:
    """The trades as soon as the server serves again; the test's own time limit bounds the wait."""
    while True:
        try:
            return await store.ticks.read(MARKET_ID, "BTCUSDT")
        except StoreUnavailable:
            await asyncio.sleep(0.05)


def live(store: TickStore) -> TradeIngest:
    guard = Guard("test", timeout_s=10.0, transient=(StoreUnavailable,))
    return TradeIngest(Intake(store, MARKET_ID), guard, pause_s=0.0)


async def cut(rows: Ticks, size: int) -> AsyncIterator[Ticks]:
    for at in range(0, len(rows), size):
        yield rows.rows(slice(at, at + size))


async def test_live_batches_are_stored_as_they_come(tick_store: TickStore) -> None:
    async def both() -> AsyncIterator[Ticks]:
        others = cut(trades(symbol="ETHUSDT"), 7)
        async for batch in cut(trades(), 7):
            yield batch
            yield await anext(others)

    ingest = live(tick_store)
    await ingest.follow(both())
    assert ingest.account == Account(n_new=2 * N)
    await assert_stored(tick_store, trades())
    await assert_stored(tick_store, trades(symbol="ETHUSDT"))


async def test_a_broken_live_trade_goes_to_quarantine(tick_store: TickStore) -> None:
    rows = trades()
    rows.size[4] = 0.0
    ingest = live(tick_store)
    await ingest.follow(cut(rows, 100))
    assert ingest.account == Account(n_new=N - 1, reasons={"not_positive": 1})


async def test_what_came_before_a_feed_failed_is_stored(tick_store: TickStore) -> None:
    async def failing() -> AsyncIterator[Ticks]:
        async for batch in cut(trades(), 30):
            yield batch
        raise SourceUnavailable("The exchange went away.")

    with pytest.raises(SourceUnavailable, match="went away"):
        await live(tick_store).follow(failing())
    await assert_stored(tick_store, trades())


async def test_a_store_that_does_not_take_trades_holds_the_feed_and_bounds_what_waits(
    tick_store: TickStore,
) -> None:
    given: list[int] = []

    async def endless() -> AsyncIterator[Ticks]:
        for k in range(10_000):
            given.append(k)
            yield trades(10, first_id=1 + 10 * k)

    await tick_store.close()
    with pytest.raises(StoreUnavailable):
        await live(tick_store).follow(endless())
    # As many as wait are in the hands of the writer, and one in those of the feed.
    assert len(given) <= 2 * MAX_WAITING_BATCHES + 1


async def test_a_cancelled_follower_ends_its_feed(tick_store: TickStore) -> None:
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def quiet() -> AsyncIterator[Ticks]:
        try:
            yield trades(5)
            waiting.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    following = asyncio.create_task(live(tick_store).follow(quiet()))
    await waiting.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert ended.is_set()

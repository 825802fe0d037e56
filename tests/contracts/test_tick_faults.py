"""Trades when a writer is killed, and when the server dies, freezes and comes back under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import numpy as np
import psutil
import pytest

from levibot.clock import SystemClock
from levibot.errors import StoreError, StoreUnavailable
from levibot.market.ticks import Ticks
from levibot.settings import Settings
from levibot.stores import tick_table
from levibot.stores.embedded import EmbeddedServers, endpoints
from levibot.stores.tick_maintenance import TickMaintenance
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

SECOND = timedelta(seconds=1)
START = np.datetime64("now", "D").astype("datetime64[us]") - np.timedelta64(12, "h")


def ticks(symbol: str, n: int, first_id: int = 1) -> Ticks:
    """`n` trades, 50 a second; a trade's instant and price follow from its id."""
    ids = np.arange(first_id, first_id + n)
    ts = START + ids * np.timedelta64(20, "ms")
    return Ticks(symbol, ts, 100.0 + ids % 97, 1.0 + ids % 3, ids, ids % 2 == 0)


async def test_a_killed_writer_leaves_all_of_a_batch_or_none(tick_store: TickStore) -> None:
    batch = [ticks(symbol, 20_000) for symbol in ("AA", "BB", "CC")]
    for delay_s in (0.0, 0.01, 0.03, 0.1):
        writing = asyncio.create_task(tick_store.ticks.write("m", batch))
        await asyncio.sleep(delay_s)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        sizes = {len(await tick_store.ticks.read("m", part.symbol)) for part in batch}
        assert sizes in ({0}, {20_000})
        if writing.cancelled() and sizes == {0}:
            # Nothing is left to roll up either.
            assert await tick_store.rollup.roll_up() == 0
    new = await tick_store.ticks.write("m", batch)
    assert new in (0, 60_000)
    for part in batch:
        assert len(await tick_store.ticks.read("m", part.symbol)) == 20_000


async def test_writers_of_the_same_symbols_wait_for_each_other(
    tick_store: TickStore, database_dsn: str
) -> None:
    other = await TickStore.open(database_dsn)
    parts = [ticks("AA", 15_000, first_id=1 + 5_000 * k) for k in range(6)]
    stores = [tick_store, other]
    new = await asyncio.gather(*(stores[k % 2].ticks.write("m", [part]) for k, part in enumerate(parts)))
    await other.close()
    assert sum(new) == 40_000
    assert (await tick_store.ticks.read("m", "AA")).trade_id.tolist() == list(range(1, 40_001))


async def test_a_writer_outwaits_a_lock_and_gives_up_on_one_that_stays(
    tick_store: TickStore, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await asyncpg.connect(database_dsn, statement_cache_size=0)
    held = other.transaction()
    await held.start()
    await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('m/AA', 0))")
    writing = asyncio.create_task(tick_store.ticks.write("m", [ticks("AA", 10), ticks("BB", 10)]))
    # Longer than one look at the lock.
    await asyncio.sleep(1.5 * tick_table.LOCK_WAIT_MS / 1000)
    assert not writing.done()
    # Of another symbol: nobody is in its way.
    assert await tick_store.ticks.write("m", [ticks("CC", 10)]) == 10
    await held.rollback()
    assert await writing == 20
    monkeypatch.setattr(tick_table, "PATIENCE_S", 0.5)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('m/AA', 0))")
        with pytest.raises(StoreUnavailable, match="Trades of AA have been in use by others"):
            await tick_store.ticks.write("m", [ticks("AA", 5, first_id=100)])
    await other.close()
    assert len(await tick_store.ticks.read("m", "AA")) == 10


async def test_no_acknowledged_trade_is_lost_when_the_server_is_killed_under_load(
    own_store: tuple[EmbeddedServers, TickStore],
) -> None:
    servers, store = own_store
    maintenance = TickMaintenance(store.rollup, store.partitions, SystemClock(), roll_up_s=0.05)
    running = asyncio.create_task(maintenance.run())
    acknowledged: dict[str, int] = {"AA": 0, "BB": 0, "CC": 0}
    n_refused = 0

    async def write(symbol: str) -> None:
        nonlocal n_refused
        for batch in range(60):
            part = ticks(symbol, 500, first_id=1 + 500 * batch)
            while True:
                try:
                    await store.ticks.write("m", [part])
                    break
                except StoreUnavailable:
                    # Whether it was committed is not known: the whole batch again.
                    n_refused += 1
                    await asyncio.sleep(0.02)
            acknowledged[symbol] += len(part)

    async def kill() -> None:
        for mark in (5_000, 20_000, 50_000):
            await until(lambda mark=mark: sum(acknowledged.values()) >= mark)
            server = psutil.Process(servers.pids()["postgres"])
            server.kill()
            server.wait(10)
            before = dict(acknowledged)
            assert await asyncio.to_thread(servers.restart_dead) == ["postgres"]
            for symbol, n in before.items():
                assert len(await eventually_read(store, symbol)) >= n

    async with asyncio.timeout(120.0):
        await asyncio.gather(kill(), *map(write, acknowledged))
    assert n_refused > 0
    for symbol, n in acknowledged.items():
        assert n == 30_000
        read = await store.ticks.read("m", symbol)
        assert read.trade_id.tolist() == list(range(1, n + 1))
    # The loop lived through it all, and the bars are whole.
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.rollup.roll_up()
    for symbol in acknowledged:
        assert (await store.rollup.read("m", symbol, SECOND)).n_ticks.sum() == 30_000
        assert (await store.rollup.read("m", symbol, 5 * SECOND)).n_ticks.sum() == 30_000


async def test_the_maintenance_goes_on_when_a_frozen_server_wakes_up(
    own_store: tuple[EmbeddedServers, TickStore],
) -> None:
    servers, store = own_store
    await store.ticks.write("m", [ticks("AA", 100)])
    maintenance = TickMaintenance(store.rollup, store.partitions, SystemClock(), roll_up_s=0.05)
    running = asyncio.create_task(maintenance.run())
    async with asyncio.timeout(60.0):
        await until(lambda: None not in (maintenance.state.rolled_up_at, maintenance.state.maintained_at))
        server = psutil.Process(servers.pids()["postgres"])
        family = [server, *server.children(recursive=True)]
        for process in family:
            process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: "roll_up" in maintenance.state.errors)
        finally:
            for process in family:
                process.send_signal(signal.SIGCONT)
        woken = SystemClock().now()
        await until(lambda: (maintenance.state.rolled_up_at or woken) > woken)
        await until(lambda: not maintenance.state.errors)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_database_that_lacks_something_does_not_end_the_maintenance(
    own_store: tuple[EmbeddedServers, TickStore],
) -> None:
    _, store = own_store
    async with store._client.connection("test") as (db, _):
        await db.execute("DROP FUNCTION tick_roll_up(bigint)")
    maintenance = TickMaintenance(store.rollup, store.partitions, SystemClock(), roll_up_s=0.05)
    running = asyncio.create_task(maintenance.run())
    async with asyncio.timeout(30.0):
        await until(lambda: maintenance.state.maintained_at is not None)
        await until(lambda: set(maintenance.state.errors) == {"roll_up"})
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    """Return when it is so; the test's own time limit bounds the wait."""
    while True:
        if is_so():
            return
        await asyncio.sleep(0.01)


async def eventually_read(store: TickStore, symbol: str) -> Ticks:
    """The trades as soon as the server serves again; the test's own time limit bounds the wait."""
    give_up_at = time.monotonic() + 60.0
    while True:
        try:
            return await store.ticks.read("m", symbol)
        except StoreError:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(0.05)


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A PostgreSQL of this test alone, to be frozen and killed."""
    servers = EmbeddedServers(Settings.load(home=tmp_path / "home", redis_url="redis://unused"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture
async def own_store(
    own_servers: EmbeddedServers, tmp_path: Path
) -> AsyncIterator[tuple[EmbeddedServers, TickStore]]:
    settings = Settings.load(home=tmp_path / "home", redis_url="redis://unused")
    store = await TickStore.open(endpoints(settings).postgres_dsn, timeout_s=1.0)
    await store.migrate()
    yield own_servers, store
    await store.close()

"""Reads that allow lag, on a real streaming replica and without it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import numpy as np
import psutil
import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import StoreError
from levibot.market.bars import Bars
from levibot.stores.pool_census import PoolCensus
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_deadline import Deadline
from levibot.stores.postgres_pool import PoolLimits, PostgresPool, Watch
from levibot.stores.postgres_replica import Replica
from levibot.stores.query_profile import QueryProfile
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import Metrics
from tests.servers.debian_postgres import DebianPostgres

pytestmark = [pytest.mark.stores, pytest.mark.debian]

TIMEOUT_S = 0.5
RESET_S = 1.5
HOUR = timedelta(hours=1)
WHICH = "SELECT CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'primary' END"


@dataclass(frozen=True)
class Pair:
    primary: DebianPostgres
    replica: DebianPostgres


async def which(db: asyncpg.Connection, _: Deadline) -> str:
    """The server that answers."""
    return str(await db.fetchval(WHICH))


async def test_reads_that_allow_lag_go_to_the_replica_and_others_never(client: PostgresClient) -> None:
    assert await client.read("which", which, allows_lag=True) == "replica"
    assert await client.read("which", which) == "primary"
    async with client.connection("which") as (db, deadline):
        assert await which(db, deadline) == "primary"


async def test_bars_are_read_from_the_replica(pair: Pair, caught_up: None) -> None:
    store = await TickStore.open(pair.primary.dsn, limits=PoolLimits(0, 4), replica_dsn=pair.replica.dsn)
    await store.migrate()
    close = 100.0 + np.arange(500)
    ts = np.datetime64("2024-01-01", "us") + np.arange(500) * np.timedelta64(HOUR)
    await store.write_bars("replica", Bars("A", HOUR, ts, close, close, close, close, close))
    await replayed(pair)
    before = await rows_read(pair.replica.dsn)
    lagging = await store.read_bars("replica", "A", HOUR, allows_lag=True)
    np.testing.assert_array_equal(lagging.close, close)
    await store.close()
    # A session tells what it read when it ends.
    async with asyncio.timeout(30.0):
        while True:
            if await rows_read(pair.replica.dsn) >= before + len(lagging):
                break
            await asyncio.sleep(0.05)


async def test_a_dead_replica_costs_one_read_and_comes_back(
    pair: Pair, client: PostgresClient, watch: Watch
) -> None:
    assert await client.read("which", which, allows_lag=True) == "replica"
    pair.replica.stop()
    try:
        for _ in range(5):
            assert await client.read("which", which, allows_lag=True) == "primary"
        assert circuit(watch) == 2
    finally:
        pair.replica.start()
    await asyncio.sleep(RESET_S)
    assert await client.read("which", which, allows_lag=True) == "replica"
    assert circuit(watch) == 0


async def test_a_frozen_replica_costs_one_time_out_and_not_one_a_read(
    pair: Pair, client: PostgresClient
) -> None:
    assert await client.read("which", which, allows_lag=True) == "replica"
    server = psutil.Process(pair.replica.process.pid)
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(10.0):
            assert await client.read("which", which, allows_lag=True) == "primary"
        started = time.perf_counter()
        for _ in range(20):
            assert await client.read("which", which, allows_lag=True) == "primary"
        # 20 time-outs would be 10 s.
        assert time.perf_counter() - started < 5.0
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)


async def test_a_replica_that_fails_in_the_middle_is_followed_by_the_primary(
    pair: Pair, client: PostgresClient
) -> None:
    asked: list[str] = []

    async def body(db: asyncpg.Connection, deadline: Deadline) -> str:
        asked.append(await which(db, deadline))
        if asked == ["replica"]:
            await db.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
        return asked[-1]

    assert await client.read("which", body, allows_lag=True) == "primary"
    assert asked == ["replica", "primary"]


async def test_a_replica_that_lags_is_not_read(pair: Pair, lagging_client: PostgresClient) -> None:
    """It answers as quickly as ever."""
    (replaying,) = [
        process
        for process in psutil.Process(pair.replica.process.pid).children()
        if "startup recovering" in " ".join(process.cmdline())
    ]
    replaying.send_signal(signal.SIGSTOP)
    try:
        async with lagging_client.connection("write") as (db, _):
            await db.execute("CREATE TABLE IF NOT EXISTS noise (x int); INSERT INTO noise VALUES (1)")
        assert await lagging_client.read("which", which, allows_lag=True) == "primary"
    finally:
        replaying.send_signal(signal.SIGCONT)


async def test_a_replica_of_a_primary_at_rest_does_not_lag(
    pair: Pair, lagging_client: PostgresClient, caught_up: None
) -> None:
    """Its newest commit is old, and there is none that it lacks."""
    await asyncio.sleep(0.3)
    assert await lagging_client.read("which", which, allows_lag=True) == "replica"


async def test_a_server_that_follows_nobody_is_no_replica(
    pair: Pair, postgres_dsn: str, watch: Watch
) -> None:
    """Its rows would be those of another market, or of another time."""
    client = await PostgresClient.open(
        pair.primary.dsn, TIMEOUT_S, PoolLimits(0, 4), replica_dsn=postgres_dsn, watch=watch
    )

    async def port(db: asyncpg.Connection, _: Deadline) -> int:
        return int(await db.fetchval("SELECT inet_server_port()"))

    assert str(await client.read("port", port, allows_lag=True)) in pair.primary.dsn
    await client.close()


async def test_too_slow_a_read_is_not_asked_of_the_primary_too(pair: Pair, client: PostgresClient) -> None:
    asked: list[str] = []

    async def body(db: asyncpg.Connection, deadline: Deadline) -> None:
        asked.append(await which(db, deadline))
        await db.execute("SELECT pg_sleep(20)")

    with pytest.raises(StoreError, match="cancelled the query nap"):
        await client.read("nap", body, limit_s=0.3, allows_lag=True)
    assert asked == ["replica"]


def circuit(watch: Watch) -> float | None:
    return watch.metrics.registry.get_sample_value("levibot_circuit_state", {"name": "postgres-replica"})


async def replayed(pair: Pair) -> None:
    """Return when the replica has all that the primary committed."""
    primary = await asyncpg.connect(pair.primary.dsn)
    replica = await asyncpg.connect(pair.replica.dsn)
    position = await primary.fetchval("SELECT pg_current_wal_lsn()::text")
    while True:
        if await replica.fetchval("SELECT $1::text::pg_lsn <= pg_last_wal_replay_lsn()", position):
            break
        await asyncio.sleep(0.02)
    await primary.close()
    await replica.close()


async def rows_read(dsn: str) -> int:
    """How many rows of `bars` the sessions of that server have read."""
    db = await asyncpg.connect(dsn)
    try:
        counted = "coalesce(sum(coalesce(idx_tup_fetch, 0) + seq_tup_read), 0)"
        return int(await db.fetchval(f"SELECT {counted} FROM pg_stat_user_tables WHERE relname = 'bars'"))
    finally:
        await db.close()


@pytest.fixture
def watch() -> Watch:
    """Accounts of this test alone."""
    metrics = Metrics(CollectorRegistry())
    return Watch(metrics, QueryProfile(metrics=metrics), PoolCensus(metrics))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A primary and its streaming replica."""
    primary = DebianPostgres.create(tmp_path_factory.mktemp("primary"))
    primary.start()
    replica = DebianPostgres.replica_of(primary, tmp_path_factory.mktemp("replica"))
    replica.start()
    yield Pair(primary, replica)
    replica.stop()
    primary.stop()


@pytest.fixture
async def caught_up(pair: Pair) -> None:
    await replayed(pair)


async def open_client(pair: Pair, watch: Watch, max_lag_s: float) -> PostgresClient:
    limits = PoolLimits(0, 4)
    primary = await PostgresPool.open(pair.primary.dsn, TIMEOUT_S, limits, watch=watch)
    replica = Replica(
        pair.replica.dsn, TIMEOUT_S, limits, primary, max_lag_s=max_lag_s, reset_s=RESET_S, watch=watch
    )
    return PostgresClient(primary, replica)


@pytest.fixture
async def client(pair: Pair, watch: Watch, caught_up: None) -> AsyncIterator[PostgresClient]:
    client = await open_client(pair, watch, max_lag_s=30.0)
    yield client
    await client.close()


@pytest.fixture
async def lagging_client(pair: Pair, watch: Watch) -> AsyncIterator[PostgresClient]:
    """One for which every commit of the past is too old."""
    client = await open_client(pair, watch, max_lag_s=0.0)
    yield client
    await client.close()

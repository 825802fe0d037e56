"""What a pool promises of its limits, on every server and behind pgbouncer."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from levibot.errors import DataError, StoreError, StoreUnavailable
from levibot.stores.pool_census import PoolCensus
from levibot.stores.postgres_pool import PoolLimits, PostgresPool, Watch
from levibot.stores.query_profile import QueryProfile
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

LIMITS = PoolLimits(min_size=1, max_size=3, statement_s=0.5, held_s=0.3)
TIMEOUT_S = 1.0
Sample = Callable[..., float]


async def test_the_server_cancels_a_statement_over_its_limit(pool: PostgresPool, sample: Sample) -> None:
    with pytest.raises(
        StoreError, match=r"cancelled the query nap: it ran for longer than its limit of 0.5 s"
    ):
        async with pool.connection("nap") as (db, _):
            await db.execute("/* much too long */ SELECT pg_sleep(20)")
    async with pool.connection("activity") as (db, _):
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%/* much%'"
        assert await db.fetchval(query + " AND pid <> pg_backend_pid()") == 0
    assert sample("levibot_queries_total", store="postgres", query="nap", outcome="failed") == 1


async def test_a_cancelled_statement_is_no_reason_to_ask_again(pool: PostgresPool) -> None:
    with pytest.raises(StoreError) as refusal:
        async with pool.connection("nap") as (db, _):
            await db.execute("SELECT pg_sleep(20)")
    assert not refusal.value.is_transient


async def test_a_slow_statement_is_not_taken_for_a_silent_server(watch: Watch, postgres_server: str) -> None:
    pool = await PostgresPool.open(postgres_server, 0.3, PoolLimits(1, 2, statement_s=30.0), watch=watch)
    async with pool.connection("nap") as (db, _):
        assert await db.fetchval("SELECT 7 FROM pg_sleep(1.0)") == 7
    await pool.close()


async def test_a_slow_statement_is_logged_and_counted(pool: PostgresPool, sample: Sample) -> None:
    async with pool.connection("quick") as (db, _):
        await db.execute("SELECT 1")
    with capture_logs() as logs:
        async with pool.connection("nap") as (db, _):
            await db.execute("SELECT pg_sleep(0.3)")
    assert [(line["event"], line["query"]) for line in logs] == [("a query was slow", "nap")]
    assert sample("levibot_slow_queries_total", store="postgres", query="nap") == 1
    assert sample("levibot_slow_queries_total", store="postgres", query="quick") == 0


async def test_a_block_may_have_a_limit_of_its_own(pool: PostgresPool) -> None:
    async with pool.connection("nap", limit_s=20.0) as (db, _):
        assert await db.fetchval("SHOW statement_timeout") == "20s"
        await db.execute("SELECT pg_sleep(0.8)")
    for _ in range(LIMITS.max_size):
        async with pool.connection("after") as (db, _):
            assert await db.fetchval("SHOW statement_timeout") == "500ms"


async def test_nothing_is_left_in_the_session_of_others(pool: PostgresPool, postgres_server: str) -> None:
    async with pool.connection("nap", limit_s=20.0) as (db, _):
        await db.execute("SELECT 1")
    strangers = [await asyncpg.connect(postgres_server, statement_cache_size=0) for _ in range(4)]
    assert {await db.fetchval("SHOW statement_timeout") for db in strangers} == {"0"}
    for db in strangers:
        await db.close()


async def test_when_all_connections_are_in_use_the_error_says_so(postgres_server: str, watch: Watch) -> None:
    pool = await PostgresPool.open(postgres_server, 0.5, PoolLimits(0, 2), watch=watch)
    async with pool.connection("first"), pool.connection("second"):
        with pytest.raises(
            StoreUnavailable, match=r"All 2 connections .* are in use; .* for third within 0.5 s"
        ):
            async with pool.connection("third"):
                pytest.fail("there is no third connection")
    async with pool.connection("fourth") as (db, _):
        assert await db.fetchval("SELECT 4") == 4
    await pool.close()


async def test_a_connection_that_is_held_too_long_is_a_counted_leak(
    pool: PostgresPool, sample: Sample
) -> None:
    async def forgetful_holder() -> None:
        async with pool.connection("hold") as (db, deadline):
            await asyncio.sleep(0.8)
            deadline.extend()
            await db.execute("SELECT 1")

    with capture_logs() as logs:
        await forgetful_holder()
    (leak,) = [line for line in logs if line["event"] == "a connection is held too long"]
    assert leak["query"] == "hold"
    assert "forgetful_holder" in leak["taken_at"]
    assert sample("levibot_db_pool_leaks_total", database="primary") == 1


async def test_a_connection_that_comes_back_in_time_is_no_leak(pool: PostgresPool, sample: Sample) -> None:
    for _ in range(3):
        async with pool.connection("short") as (db, _):
            await db.execute("SELECT pg_sleep(0.1)")
    await asyncio.sleep(0.35)
    assert sample("levibot_db_pool_leaks_total", database="primary") == 0


async def test_the_connections_are_counted_by_state(pool: PostgresPool, sample: Sample) -> None:
    def states() -> tuple[float, ...]:
        return tuple(
            sample("levibot_db_pool_connections", database="primary", state=state)
            for state in ("idle", "used")
        )

    assert states() == (1, 0)
    async with pool.connection("first"):
        assert states() == (0, 1)
        async with pool.connection("second"):
            assert states() == (0, 2)
    assert states() == (2, 0)
    await pool.close()
    assert states() == (0, 0)


async def test_a_caller_that_is_cancelled_gives_its_connection_back(pool: PostgresPool) -> None:
    async def wait() -> None:
        async with pool.connection("nap", limit_s=20.0) as (db, _):
            await db.execute("SELECT pg_sleep(20)")

    for _ in range(2 * LIMITS.max_size):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    async with pool.connection("after") as (db, _):
        assert await db.fetchval("SELECT 1") == 1


async def test_a_refused_value_leaves_the_pool_usable(pool: PostgresPool) -> None:
    for _ in range(2 * LIMITS.max_size):
        with pytest.raises(DataError):
            async with pool.connection("refused") as (db, _):
                await db.execute(
                    "CREATE TEMP TABLE t (x int CHECK (x > 0)) ON COMMIT DROP; INSERT INTO t VALUES (0)"
                )
    async with pool.connection("after") as (db, _):
        assert await db.fetchval("SELECT 1") == 1


async def test_copy_transactions_and_locks_work(database_dsn: str, watch: Watch) -> None:
    pool = await PostgresPool.open(database_dsn, TIMEOUT_S, LIMITS, watch=watch)
    async with pool.connection("make") as (db, _):
        await db.execute("CREATE TABLE numbers (x int)")
    async with pool.connection("copy_in") as (db, _):
        await db.copy_records_to_table("numbers", records=[(x,) for x in range(1000)])
    with pytest.raises(StoreError, match="22012"):
        async with pool.connection("undone") as (db, _), db.transaction():
            await db.execute("DELETE FROM numbers WHERE x < 500; SELECT 1 / 0")
    received = io.BytesIO()
    async with pool.connection("copy_out") as (db, _):
        await db.copy_from_query("SELECT x FROM numbers WHERE x >= $1", 990, output=received)
    assert received.getvalue().split() == [str(x).encode() for x in range(990, 1000)]
    async with pool.connection("count") as (db, _):
        assert await db.fetchval("SELECT count(*) FROM numbers") == 1000
    async with pool.connection("lock") as (db, _), db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock(1)")
        async with pool.connection("other") as (other, _), other.transaction():
            assert not await other.fetchval("SELECT pg_try_advisory_xact_lock(1)")
    async with pool.connection("later") as (db, _), db.transaction():
        assert await db.fetchval("SELECT pg_try_advisory_xact_lock(1)")
    await pool.close()


async def test_a_direct_server_is_no_pooler(postgres_dsn: str, watch: Watch) -> None:
    pool = await PostgresPool.open(postgres_dsn, TIMEOUT_S, LIMITS, watch=watch)
    assert not pool.is_pooled
    await pool.close()


@pytest.mark.debian
async def test_pgbouncer_is_detected(pgbouncer: str, watch: Watch) -> None:
    pool = await PostgresPool.open(pgbouncer, TIMEOUT_S, LIMITS, watch=watch)
    assert pool.is_pooled
    await pool.close()


@pytest.mark.debian
async def test_what_is_detected_matters(pgbouncer: str) -> None:
    """The planted fault: prepared statements that are cached, as they are before a direct server."""
    clients = [await asyncpg.connect(pgbouncer, statement_cache_size=100) for _ in range(8)]

    async def ask(db: asyncpg.Connection) -> None:
        for number in range(64):
            await db.fetchval("SELECT $1::int", number)

    answers = await asyncio.gather(*map(ask, clients), return_exceptions=True)
    assert any(isinstance(answer, asyncpg.PostgresError) for answer in answers)
    for db in clients:
        db.terminate()


@pytest.fixture
def watch() -> Watch:
    """Accounts of this test alone."""
    metrics = Metrics(CollectorRegistry())
    return Watch(metrics, QueryProfile(slow_s=0.25, metrics=metrics), PoolCensus(metrics))


@pytest.fixture
def sample(watch: Watch) -> Sample:
    """The value of a metric of this test, 0 where nothing counted yet."""

    def read(name: str, **labels: str) -> float:
        return watch.metrics.registry.get_sample_value(name, labels) or 0.0

    return read


@pytest.fixture
async def pool(postgres_server: str, watch: Watch) -> AsyncIterator[PostgresPool]:
    """A small pool with short limits, on each server in turn."""
    pool = await PostgresPool.open(postgres_server, TIMEOUT_S, LIMITS, watch=watch)
    yield pool
    await pool.close()

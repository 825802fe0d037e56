"""What becomes of a pool whose server, or one session of it, dies or freezes."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from levibot.errors import StoreUnavailable
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.postgres_pool import PoolLimits, PostgresPool
from tests.servers.pgbouncer import Pgbouncer

pytestmark = pytest.mark.stores


async def test_the_floor_comes_back_without_a_traceback(
    own_postgres: tuple[EmbeddedServers, str], caplog: pytest.LogCaptureFixture
) -> None:
    servers, dsn = own_postgres
    pool = await PostgresPool.open(dsn, 2.0, PoolLimits(min_size=3, max_size=5))
    assert pool.size == 3
    server = psutil.Process(servers.pids()["postgres"])
    server.kill()
    server.wait(5)
    async with asyncio.timeout(60.0):
        await until(lambda: len(tries(caplog)) >= 2)
        assert pool.size == 0
        servers.restart_dead()
        await until(lambda: pool.size == 3)
    assert all(record.exc_info is None for record in tries(caplog))
    assert all("Connect call failed" in record.getMessage() for record in tries(caplog))
    await pool.close()


async def test_a_frozen_session_ends_although_its_server_lives(
    own_postgres: tuple[EmbeddedServers, str],
) -> None:
    _, dsn = own_postgres
    pool = await PostgresPool.open(dsn, 0.4, PoolLimits(0, 2, statement_s=0.8))
    async with asyncio.timeout(20.0):
        with pytest.raises(StoreUnavailable, match=r"did not answer in time \(frozen\)"):
            await ask_a_frozen_session(pool)
        async with pool.connection("other") as (db, _):
            assert await db.fetchval("SELECT 1") == 1
    await pool.close()


@pytest.mark.debian
async def test_a_pooler_that_dies_is_found_again(postgres_dsn: str, tmp_path: Path) -> None:
    bouncer = Pgbouncer(tmp_path, postgres_dsn)
    bouncer.start()
    pool = await PostgresPool.open(bouncer.dsn, 1.0, PoolLimits(2, 4))
    try:
        bouncer.stop(by=signal.SIGKILL)
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                async with pool.connection("ask") as (db, _):
                    await db.fetchval("SELECT 1")
        bouncer.start()
        async with pool.connection("ask") as (db, _):
            assert await db.fetchval("SELECT 1") == 1
    finally:
        await pool.close()
        bouncer.stop()


@pytest.mark.debian
async def test_a_pooler_before_a_frozen_server_is_unavailable(
    own_postgres: tuple[EmbeddedServers, str], tmp_path: Path
) -> None:
    servers, dsn = own_postgres
    bouncer = Pgbouncer(tmp_path, dsn)
    bouncer.start()
    pool = await PostgresPool.open(bouncer.dsn, 0.5, PoolLimits(1, 4))
    server = psutil.Process(servers.pids()["postgres"])
    family = [server, *server.children(recursive=True)]
    try:
        for process in family:
            process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(10.0):
            with pytest.raises(StoreUnavailable):
                async with pool.connection("ask") as (db, _):
                    await db.fetchval("SELECT 1")
    finally:
        for process in family:
            process.send_signal(signal.SIGCONT)
        await pool.close()
        bouncer.stop()


async def ask_a_frozen_session(pool: PostgresPool) -> None:
    async with pool.connection("frozen") as (db, _):
        session = psutil.Process(await db.fetchval("SELECT pg_backend_pid()"))
        session.send_signal(signal.SIGSTOP)
        try:
            await db.fetchval("SELECT 1")
        finally:
            session.send_signal(signal.SIGCONT)


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds; the test's own limit bounds the wait."""
    while True:
        if holds():
            return
        await asyncio.sleep(0.05)


def tries(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "asyncpg.pool"]

"""Stores are opened as the settings say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from levibot.settings import Settings
from levibot.stores.connect import open_ticks
from levibot.stores.embedded import EmbeddedServers
from tests.databases import drop_database

pytestmark = pytest.mark.stores


async def n_sessions(dsn: str) -> int:
    """The sessions of one database but the one that asks."""
    db = await asyncpg.connect(dsn)
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return int(await db.fetchval(query + " AND pid <> pg_backend_pid()"))
    finally:
        await db.close()


@pytest.fixture
async def empty_dsn(postgres_dsn: str) -> str:
    """A database that nobody else is connected to."""
    admin = await asyncpg.connect(postgres_dsn)
    await drop_database(admin, "test_connect")
    await admin.execute("CREATE DATABASE test_connect")
    await admin.close()
    return postgres_dsn.rsplit("/", 1)[0] + "/test_connect"


async def test_the_tick_store_keeps_and_takes_as_many_connections_as_are_set(empty_dsn: str) -> None:
    limits = {"postgres_pool_min": 2, "postgres_pool_max": 4}
    ticks = await open_ticks(Settings.load(postgres_dsn=empty_dsn, redis_url="redis://unused", **limits))
    assert await n_sessions(empty_dsn) == 2
    await asyncio.gather(*(ticks.ping() for _ in range(40)))
    assert await n_sessions(empty_dsn) == 4
    await ticks.close()


async def test_the_tick_store_keeps_5_connections_unless_it_is_set(empty_dsn: str) -> None:
    ticks = await open_ticks(Settings.load(postgres_dsn=empty_dsn, redis_url="redis://unused"))
    assert await n_sessions(empty_dsn) == 5
    await ticks.close()


async def test_a_replica_that_is_away_holds_up_nobody(empty_dsn: str) -> None:
    away = "postgresql://u:p@127.0.0.1:1/x"
    settings = Settings.load(postgres_dsn=empty_dsn, postgres_replica_dsn=away, redis_url="redis://unused")
    ticks = await open_ticks(settings)
    await ticks.migrate()
    assert len(await ticks.read_bars("m", "A", settings.interval, allows_lag=True)) == 0
    await ticks.close()


async def test_the_embedded_server_has_room_for_the_pools_of_a_run(tmp_path: Path, postgres_dsn: str) -> None:
    async def room(dsn: str) -> int:
        db = await asyncpg.connect(dsn)
        try:
            return int(await db.fetchval("SHOW max_connections"))
        finally:
            await db.close()

    assert await room(postgres_dsn) >= 7 * 20
    settings = Settings.load(home=tmp_path / "home", redis_url="redis://unused", postgres_pool_max=50)
    servers = EmbeddedServers(settings)
    try:
        assert await room(servers.start().postgres_dsn) >= 7 * 50
    finally:
        servers.stop()

"""The suites run on the servers that their names say."""

from __future__ import annotations

import asyncpg
import pytest

pytestmark = pytest.mark.stores


async def version(dsn: str) -> str:
    db = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        return str(await db.fetchval("SHOW server_version"))
    finally:
        await db.close()


async def test_the_embedded_server_is_postgresql_18(postgres_dsn: str) -> None:
    assert (await version(postgres_dsn)).startswith("18.")


@pytest.mark.debian
async def test_debians_server_is_postgresql_15(debian_postgres: str) -> None:
    assert (await version(debian_postgres)).startswith("15.")


@pytest.mark.debian
async def test_pgbouncer_gives_a_session_away_between_transactions(pgbouncer: str) -> None:
    clients = [await asyncpg.connect(pgbouncer, statement_cache_size=0) for _ in range(8)]
    sessions = {await client.fetchval("SELECT pg_backend_pid()") for client in clients}
    for client in clients:
        await client.close()
    assert len(sessions) < len(clients)

"""The servers that the contract suites run on: what they test is asked of each of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.ticks import TickStore
from tests.databases import drop_database
from tests.servers.debian_postgres import DebianPostgres
from tests.servers.pgbouncer import Pgbouncer

TIMESCALE = "LEVIBOT_TEST_TIMESCALE_DSN"


@pytest.fixture(scope="session")
def debian_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of the session's PostgreSQL 15. Do not kill it."""
    server = DebianPostgres.create(tmp_path_factory.mktemp("postgres15"))
    server.start()
    yield server.dsn
    server.stop()


@pytest.fixture(scope="session")
def pgbouncer(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of the session's pgbouncer before the embedded PostgreSQL. Do not kill it."""
    bouncer = Pgbouncer(tmp_path_factory.mktemp("pgbouncer"), postgres_dsn)
    bouncer.start()
    yield bouncer.dsn
    bouncer.stop()


@pytest.fixture(scope="session")
def timescale() -> str:
    """The DSN of a TimescaleDB that somebody else runs, whose role may make databases."""
    if TIMESCALE not in os.environ:
        pytest.skip(f"no TimescaleDB here: {TIMESCALE} is not set")
    return os.environ[TIMESCALE]


@pytest.fixture(
    scope="session",
    params=[
        "postgres_dsn",
        pytest.param("debian_postgres", marks=pytest.mark.debian),
        pytest.param("pgbouncer", marks=pytest.mark.debian),
        "timescale",
    ],
    ids=["postgresql-18", "postgresql-15", "pgbouncer", "timescaledb"],
)
def postgres_server(request: pytest.FixtureRequest) -> str:
    """The DSN of each PostgreSQL in turn; its role may make databases."""
    dsn: str = request.getfixturevalue(request.param)
    return dsn


@pytest.fixture
async def database_dsn(postgres_server: str) -> AsyncIterator[str]:
    """The DSN of an empty database of this test, on each server in turn."""
    name = f"test_{secrets.token_hex(6)}"
    # No prepared statement: behind pgbouncer it may be another session's.
    admin = await asyncpg.connect(postgres_server, statement_cache_size=0)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield postgres_server.rsplit("/", 1)[0] + f"/{name}"
        await drop_database(admin, name)
    finally:
        await admin.close()


@pytest.fixture
async def tick_store(database_dsn: str) -> AsyncIterator[TickStore]:
    """A migrated tick store in a database of its own, on each server in turn."""
    store = await TickStore.open(database_dsn)
    await store.migrate()
    yield store
    await store.close()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[tuple[EmbeddedServers, str]]:
    """A PostgreSQL of this test alone, to be frozen and killed."""
    servers = EmbeddedServers(Settings.load(home=tmp_path / "home", redis_url="redis://unused"))
    yield servers, servers.start().postgres_dsn
    servers.stop()

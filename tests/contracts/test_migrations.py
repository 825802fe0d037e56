"""The tables are brought up to date once, whole, and can be taken back, on every server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from levibot.errors import StoreError, StoreUnavailable
from levibot.stores import migrations
from levibot.stores.migrations import migrate, plan, postgres_migrations
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_pool import PoolLimits
from tests.databases import drop_database

pytestmark = pytest.mark.stores

# What is there, apart from the bookkeeping and from what belongs to an extension.
OBJECTS = """
SELECT kind || ' ' || name FROM (
    SELECT 'relation', oid, 'pg_class'::regclass, relname::text, relnamespace FROM pg_class
    UNION ALL SELECT 'function', oid, 'pg_proc'::regclass, proname::text, pronamespace FROM pg_proc
    UNION ALL SELECT 'type', oid, 'pg_type'::regclass, typname::text, typnamespace FROM pg_type
) AS objects (kind, oid, catalog, name, namespace)
WHERE namespace = 'public'::regnamespace AND name !~ '^_?schema_migrations'
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = catalog AND objid = objects.oid AND deptype = 'e')
"""


async def objects(client: PostgresClient) -> set[str]:
    async with client.connection("objects") as (db, _):
        return {row[0] for row in await db.fetch(OBJECTS)}


async def names_of_engine(client: PostgresClient) -> list[str]:
    engine = (await plan(client)).engine
    return [m.name for m in postgres_migrations() if m.engine in (None, engine)]


async def test_migrations_run_once_however_many_ask(database_dsn: str) -> None:
    clients = [await PostgresClient.open(database_dsn, 2.0, PoolLimits(0, 2)) for _ in range(4)]
    names = await names_of_engine(clients[0])
    applied = await asyncio.gather(*(migrate(client) for client in clients))
    assert sorted(map(len, applied)) == [0, 0, 0, len(names)]
    assert max(applied) == names
    assert await migrate(clients[0]) == []
    for client in clients:
        await client.close()


async def test_a_plan_says_what_would_run_and_changes_nothing(client: PostgresClient) -> None:
    planned = await plan(client)
    assert await objects(client) == set()
    assert [migration.name for migration in planned.new] == await migrate(client)
    assert await plan(client) == migrations.Plan(planned.engine, ())


async def test_everything_can_be_taken_back_and_applied_again(client: PostgresClient) -> None:
    applied = await migrate(client)
    before = await objects(client)
    assert "relation bars" in before
    async with client.connection("roll_back", limit_s=60.0) as (db, _), db.transaction():
        for name in reversed(applied):
            await db.execute(way_back(name))
    assert await objects(client) == set()
    async with client.connection("bookkeeping") as (db, _):
        assert await db.fetchval("SELECT count(*) FROM schema_migrations") == 0
    assert await migrate(client) == applied
    assert await objects(client) == before


async def test_a_changed_migration_is_refused(client: PostgresClient, postgres_files: Path) -> None:
    await migrate(client)
    first = postgres_files / "0001_bars.sql"
    first.write_text(first.read_text() + "-- a later thought\n")
    for ask in (migrate, plan):
        with pytest.raises(StoreError, match=f"{first.name} was applied with checksum"):
            await ask(client)


async def test_a_failing_migration_leaves_nothing(client: PostgresClient, postgres_files: Path) -> None:
    await migrate(client)
    (postgres_files / "9000_good.sql").write_text("CREATE TABLE good (x int);")
    (postgres_files / "9001_bad.sql").write_text("CREATE TABLE bad (x nothing);")
    with pytest.raises(StoreError, match="42704"):
        await migrate(client)
    (postgres_files / "9001_bad.sql").write_text("CREATE TABLE bad (x int);")
    assert await migrate(client) == ["9000_good.sql", "9001_bad.sql"]


async def test_a_file_of_the_other_engine_does_not_run(client: PostgresClient, postgres_files: Path) -> None:
    engine = (await plan(client)).engine
    for name in ("timescale", "plain"):
        (postgres_files / f"9000_kind.{name}.sql").write_text(f"CREATE TABLE kind_{name} (x int);")
    assert (await migrate(client))[-1] == f"9000_kind.{engine}.sql"
    assert {f"relation kind_{engine}"} == {o for o in await objects(client) if "relation kind" in o}


async def test_the_engine_stays_what_it_was_at_the_first_migration(
    client: PostgresClient, postgres_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "EXTENSION", "no_such_extension")
    await migrate(client)
    # hstore is there and anybody may make it: what TimescaleDB is where it is installed.
    monkeypatch.setattr(migrations, "EXTENSION", "hstore")
    (postgres_files / "9000_kind.timescale.sql").write_text("CREATE TABLE kind (x int);")
    assert await plan(client) == migrations.Plan("plain", ())
    assert await migrate(client) == []


@pytest.mark.parametrize(
    ("extension", "engine"),
    [("no_such_extension", "plain"), ("hstore", "timescale"), ("file_fdw", "plain")],
    ids=["not-installed", "allowed", "not-allowed"],
)
async def test_the_engine_is_what_can_be_made_here(
    plain_server: str,
    postgres_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    extension: str,
    engine: str,
) -> None:
    drop_files(postgres_files, "*.timescale.sql")  # hstore stands in for TimescaleDB only so far
    monkeypatch.setattr(migrations, "EXTENSION", extension)
    client = await PostgresClient.open(plain_server, 2.0, PoolLimits(0, 2))
    made = "SELECT count(*) FROM pg_extension WHERE extname = $1"
    assert (await plan(client)).engine == engine
    async with client.connection("extension") as (db, _):
        assert await db.fetchval(made, extension) == 0
    await migrate(client)
    async with client.connection("extension") as (db, _):
        assert await db.fetchval("SELECT DISTINCT engine FROM schema_migrations") == engine
        assert await db.fetchval(made, extension) == (1 if engine == "timescale" else 0)
    await client.close()


@pytest.mark.parametrize("ending", ["terminated", "overtaken"])
async def test_a_trial_that_is_cut_short_decides_nothing(
    plain_server: str, postgres_files: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    drop_files(postgres_files, "*.timescale.sql")
    monkeypatch.setattr(migrations, "EXTENSION", "hstore")
    client = await PostgresClient.open(plain_server, 2.0, PoolLimits(0, 2))
    other = await asyncpg.connect(plain_server)
    making = other.transaction()
    await making.start()
    await other.execute("CREATE EXTENSION hstore")
    migrating = asyncio.create_task(migrate(client))
    waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE EXTENSION%'"
    while True:
        if await other.fetchval(f"SELECT count(*) {waiting}"):
            break
        await other.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.02)")
    if ending == "terminated":
        await other.execute(f"SELECT pg_terminate_backend(pid) {waiting}")
        with pytest.raises(StoreUnavailable):
            await migrating
        await making.rollback()
    else:
        await making.commit()
        with pytest.raises(StoreError, match=r"23505|42710"):
            await migrating
    assert (await plan(client)).engine == "timescale"
    assert await migrate(client)
    await client.close()
    await other.close()


async def test_a_database_from_before_the_engines_decides_now(client: PostgresClient) -> None:
    """Its bookkeeping has no column for the engine."""
    engine = (await plan(client)).engine
    first = postgres_migrations()[0]
    async with client.connection("old_bookkeeping") as (db, _):
        await db.execute(
            "CREATE TABLE schema_migrations (name text PRIMARY KEY, checksum text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        )
        await db.execute("INSERT INTO schema_migrations VALUES ($1, $2)", first.name, first.checksum)
        await db.execute(first.sql)
    assert await migrate(client) == [n for n in await names_of_engine(client) if n != first.name]
    assert (await plan(client)) == migrations.Plan(engine, ())


async def test_a_table_in_use_is_not_waited_for_long(
    client: PostgresClient, postgres_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(client)
    monkeypatch.setattr(migrations, "LOCK_WAIT_MS", 100)
    (postgres_files / "9000_more.sql").write_text("ALTER TABLE bars ADD COLUMN more int;")
    async with client.connection("reader") as (db, _), db.transaction():
        await db.execute("SELECT FROM bars")
        with pytest.raises(StoreError, match="55P03"):
            await migrate(client)
    assert await migrate(client) == ["9000_more.sql"]


@pytest.mark.parametrize(
    "names",
    [
        ("1_short.sql",),
        ("0002_other.fast.sql",),
        ("0001_again.sql",),
        ("0002_a.timescale.sql", "0002_b.plain.sql"),
        ("0002_a.sql", "0002_a.plain.sql"),
    ],
)
def test_names_that_break_the_rules_are_refused(postgres_files: Path, names: tuple[str, ...]) -> None:
    drop_files(postgres_files, "000[2-9]*.sql")
    for name in names:
        (postgres_files / name).write_text("SELECT 1;")
    with pytest.raises(StoreError, match="name"):
        postgres_migrations()


def test_every_migration_has_a_way_back_that_says_so() -> None:
    for migration in postgres_migrations():
        shared = f"{migration.name.partition('.')[0]}.sql"
        said = way_back(migration.name).partition(" back.")[0]
        assert said in (f"-- Takes {migration.name}", f"-- Takes {shared}")


def drop_files(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def way_back(name: str) -> str:
    """The rollback of a migration: its own, or the one that a pair shares."""
    folder = migrations.sql_files("postgres")[0].parent / "rollback"
    own = folder / name
    return (own if own.exists() else folder / f"{name.partition('.')[0]}.sql").read_text()


@pytest.fixture
async def client(database_dsn: str) -> AsyncIterator[PostgresClient]:
    """An empty database, on each server in turn."""
    client = await PostgresClient.open(database_dsn, 2.0, PoolLimits(0, 4))
    yield client
    await client.close()


@pytest.fixture
async def plain_server(postgres_dsn: str) -> AsyncIterator[str]:
    """An empty database of the embedded server, whose extensions are known."""
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute("CREATE DATABASE test_engine")
    yield postgres_dsn.rsplit("/", 1)[0] + "/test_engine"
    await drop_database(admin, "test_engine")
    await admin.close()


@pytest.fixture
def postgres_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the SQL that the test may change."""
    folder = tmp_path / "postgres"
    folder.mkdir()
    for path in migrations.sql_files("postgres"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.setattr(migrations, "_IN_WHEEL", tmp_path)
    return folder

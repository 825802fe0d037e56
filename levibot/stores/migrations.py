"""The SQL of each store: in `ops/<store>/` of the repository, and a copy of it inside the wheel.

For PostgreSQL each file is applied once, in the order of the numbers, all new ones in one transaction:

    NNNN_name.sql               on every server
    NNNN_name.timescale.sql     only on a TimescaleDB
    NNNN_name.plain.sql         only elsewhere
    rollback/NNNN_name.sql      takes the above back, and its row out of schema_migrations

A number is either one file for every server, or a pair of the same name for the two engines; a member of the
pair may be missing, and a pair may share its rollback or have one each (`rollback/NNNN_name.plain.sql`).
A file that was applied is never changed: its checksum is remembered. What cannot run in a transaction, such
as the refresh of a continuous aggregate or CREATE INDEX CONCURRENTLY, is no migration: the code that needs it
runs it. The extension itself is made before the first file; no file does it.

Which engine a database has is decided once, at its first migration, and remembered in schema_migrations: an
extension that is installed later does not switch the files of a database that holds data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg
import structlog

from levibot.errors import StoreError
from levibot.stores.postgres_client import PostgresClient
from levibot.stores.postgres_errors import NOT_SERVING

Engine = Literal["timescale", "plain"]

EXTENSION = "timescaledb"
LIMIT_S = 600.0  # for one statement: an index on a grown table takes its time
LOCK_WAIT_MS = 10_000  # whoever waits for a table's lock makes everybody behind it wait too
LOCK = 0x6C657669  # any number that no other program of this database locks

_IN_WHEEL = Path(__file__).parent / "sql"
_IN_REPOSITORY = Path(__file__).parents[2] / "ops"
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)(?:\.(timescale|plain))?\.sql")
_IS_READY = """
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('schema_migrations') AND attname = 'engine'
)
"""
_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS engine text CHECK (engine IN ('timescale', 'plain'));
"""
_DECIDED = "SELECT engine FROM schema_migrations WHERE engine IS NOT NULL LIMIT 1"
_IS_AVAILABLE = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. engine: None for every server. checksum: SHA-256 of `sql`, in hex digits."""

    name: str
    engine: Engine | None
    sql: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a database lacks, in its order. engine: the one that the database has or would get."""

    engine: Engine
    new: tuple[Migration, ...]


def sql_files(store: str) -> tuple[Path, ...]:
    """The files of one store (`clickhouse`, `postgres`), in the order of their numbers. Raises StoreError."""
    for folder in (_IN_WHEEL / store, _IN_REPOSITORY / store):
        files = tuple(sorted(folder.glob("[0-9]*.sql")))
        if files:
            return files
    raise StoreError(f"The SQL of {store} is not there: neither in {_IN_WHEEL} nor in {_IN_REPOSITORY}.")


def postgres_migrations() -> tuple[Migration, ...]:
    """Every file of both engines. Raises StoreError for a name or a number that breaks the rules above."""
    migrations = tuple(_read(path) for path in sql_files("postgres"))
    taken: dict[str, Migration] = {}
    for migration in migrations:
        number = migration.name[:4]
        other = taken.setdefault(number, migration)
        is_pair = None not in (other.engine, migration.engine) and other.engine != migration.engine
        if other is not migration and not (is_pair and _stem(other.name) == _stem(migration.name)):
            raise StoreError(
                f"{other.name} and {migration.name} have the same number and are no pair of one name for the "
                "two engines.",
                hint="Give the newer one the next number.",
            )
    return migrations


async def plan(client: PostgresClient) -> Plan:
    """What `migrate` would apply now; nothing is changed. Raises StoreError like `migrate`."""
    engine = await _decide_engine(client, EXTENSION, keep=False)
    async with client.connection("plan_migrations", limit_s=LIMIT_S) as (db, _), db.transaction():
        applied = await _applied(db)
    return Plan(engine, tuple(_lacking(postgres_migrations(), engine, applied)))


async def migrate(client: PostgresClient) -> list[str]:
    """Bring the tables up to date; returns the names of the files that were applied.

    All new files run in one transaction; callers at the same time wait for each other. Raises StoreError when
    a file that was applied has changed since, and when one fails: then none of them was applied.
    """
    migrations = postgres_migrations()
    engine = await _decide_engine(client, EXTENSION, keep=True)
    async with client.connection("migrate", limit_s=LIMIT_S) as (db, deadline), db.transaction():
        await db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        # Not before: the wait for another caller may be longer.
        await db.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
        if not await db.fetchval(_IS_READY):
            await db.execute(_BOOKKEEPING)
        new = _lacking(migrations, engine, await _applied(db))
        for migration in new:
            deadline.extend()
            await db.execute(migration.sql)
            row = migration.name, migration.checksum, engine
            await db.execute(
                "INSERT INTO schema_migrations (name, checksum, engine) VALUES ($1, $2, $3)", *row
            )
    return [migration.name for migration in new]


async def _decide_engine(client: PostgresClient, extension: str, *, keep: bool) -> Engine:
    """The engine that was decided, otherwise whether the extension can be made, tried for real.

    keep: make the extension; otherwise the trial is rolled back.
    """
    refusal = ""
    try:
        async with client.connection("decide_engine", limit_s=LIMIT_S) as (db, _), db.transaction():
            await db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            if await db.fetchval(_IS_READY):
                decided: Engine | None = await db.fetchval(_DECIDED)
                if decided is not None:
                    return decided
            if not await db.fetchval(_IS_AVAILABLE, extension):
                return "plain"
            try:
                await db.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")
            except (*NOT_SERVING, asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError):
                # A server that goes away, or somebody who makes it at this very moment: that decides nothing.
                raise
            except asyncpg.PostgresError as exc:
                refusal = str(exc)
                raise
            if not keep:
                raise _Undone
    except _Undone:
        return "timescale"
    except StoreError:
        # A library that should have been loaded at the server's start ends the whole session.
        if not refusal:
            raise
        log.warning("the extension is installed and cannot be used", extension=extension, reason=refusal)
        return "plain"
    return "timescale"


class _Undone(Exception):
    """Takes a transaction back that went well."""


async def _applied(db: Any) -> dict[str, str]:
    """The checksum of each applied file, by name."""
    if await db.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
        return {}
    rows = await db.fetch("SELECT name, checksum FROM schema_migrations")
    return {row["name"]: row["checksum"] for row in rows}


def _lacking(migrations: Sequence[Migration], engine: Engine, applied: dict[str, str]) -> list[Migration]:
    """The engine's files that were not applied. Raises StoreError when an applied one has changed."""
    for migration in migrations:
        checksum = applied.get(migration.name, migration.checksum)
        if checksum != migration.checksum:
            raise StoreError(
                f"{migration.name} was applied with checksum {checksum[:12]} and is "
                f"{migration.checksum[:12]} now.",
                hint="Put it back as it was and make the change in a new file with the next number.",
            )
    return [m for m in migrations if m.name not in applied and m.engine in (None, engine)]


def _read(path: Path) -> Migration:
    parts = _NAME.fullmatch(path.name)
    if parts is None:
        raise StoreError(
            f"{path.name} is no name of a migration.",
            hint="Names are like 0002_ticks.sql, 0002_ticks.timescale.sql and 0002_ticks.plain.sql.",
        )
    engine: Any = parts[3]
    sql = path.read_text()
    checksum = hashlib.sha256(sql.encode()).hexdigest()
    return Migration(path.name, engine, sql, checksum)


def _stem(name: str) -> str:
    """`0002_ticks` of `0002_ticks.plain.sql`."""
    return name.partition(".")[0]

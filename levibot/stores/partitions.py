"""Native partitions by time: made ahead, and dropped when they are older than their table keeps rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg
import structlog

from levibot.stores.postgres_client import PostgresClient

log = structlog.get_logger()

_AHEAD = """
SELECT table_name, make_time_partitions(table_name, ARRAY(
    SELECT date_bin('1 hour', $1::timestamptz, 'epoch') + k * partition_every
    FROM generate_series(0, n_ahead) k
)) AS n_made FROM time_tables ORDER BY table_name
"""
_DUE = """
SELECT p.partition_name FROM time_partitions p JOIN time_tables t USING (table_name)
WHERE p.dropped_at IS NULL AND p.upper_ts <= $1::timestamptz - t.keep_for
ORDER BY p.upper_ts
"""


@dataclass(frozen=True, slots=True)
class Maintained:
    """What one pass did. postponed: partitions that are due but in use, or not rolled up yet."""

    n_made: int
    dropped: tuple[str, ...]
    postponed: tuple[str, ...]


class TimePartitions:
    """The partitions of ticks and of their bars; the table `time_tables` says how long and for how long.

    On TimescaleDB, whose policies do this, every call finds nothing to do.
    State: which engine the database has, asked once. Errors as in `TickStore`.
    """

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self._is_native: bool | None = None

    async def maintain(self, as_of: datetime) -> Maintained:
        """Make the partitions that come next, drop those that are too old at `as_of` (aware, the market's).

        Safe to repeat, and to be called by several processes. A partition goes only when its trades are
        rolled up. Dropping waits for writers for a second at most, and is postponed when that is too short.
        """
        dropped: list[str] = []
        postponed: list[str] = []
        async with self._client.connection("make_partitions") as (db, _):
            if self._is_native is None:
                self._is_native = await db.fetchval("SELECT to_regclass('time_tables') IS NOT NULL")
            if not self._is_native:
                return Maintained(0, (), ())
            n_made = sum(row["n_made"] for row in await db.fetch(_AHEAD, as_of))
            due = [row["partition_name"] for row in await db.fetch(_DUE, as_of)]
        for name in due:
            (dropped if await self._drop(name, as_of) else postponed).append(name)
        if dropped:
            log.info("partitions were dropped", n=len(dropped), first=dropped[0], last=dropped[-1])
        return Maintained(n_made, tuple(dropped), tuple(postponed))

    async def _drop(self, name: str, as_of: datetime) -> bool:
        # Each in a transaction of its own: two tables locked at once could meet a reader of both.
        async with self._client.connection("drop_partition") as (db, _):
            try:
                async with db.transaction():
                    is_gone: bool = await db.fetchval("SELECT drop_time_partition($1, $2)", name, as_of)
            except asyncpg.LockNotAvailableError:
                return False
        return is_gone

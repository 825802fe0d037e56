"""A read replica: a second place for the reads that allow lag, and never the only one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from levibot.errors import StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.stores.postgres_deadline import Deadline
from levibot.stores.postgres_pool import PoolLimits, PostgresPool, Watch

T = TypeVar("T")
Body = Callable[[Any, Deadline], Awaitable[T]]

MAX_LAG_S = 30.0
RESET_S = 15.0
# The guard bounds the whole read from outside; from inside its deadline does, which knows silence from work.
READ_TIMEOUT_S = 600.0
# Since the commit of what was replayed last, by two clocks that should agree; NULL where nothing was yet.
_LAG = """
SELECT pg_is_in_recovery() AS follows,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS lag_s
"""
_POSITION = "SELECT pg_current_wal_lsn()::text"
_HAS_REPLAYED = "SELECT coalesce($1::text::pg_lsn <= pg_last_wal_replay_lsn(), false)"
log = structlog.get_logger()


class Replica:
    """Answers reads while it follows the primary closely. State: a circuit; from the first read on, a pool.

    max_lag_s: how far it may be behind. A replica that fails or lags costs one read its time; for `RESET_S`
    after that it is not asked, then one read tries it.
    """

    def __init__(
        self,
        dsn: str,
        timeout_s: float,
        limits: PoolLimits,
        primary: PostgresPool,
        *,
        max_lag_s: float = MAX_LAG_S,
        reset_s: float = RESET_S,
        watch: Watch,
    ) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        # Nothing is kept open: it is read now and then.
        self._limits = replace(limits, min_size=0)
        self._primary = primary
        self._max_lag_s = max_lag_s
        self._watch = watch
        self._pool: PostgresPool | None = None
        self._opening = asyncio.Lock()
        self._guard = Guard(
            "postgres-replica",
            timeout_s=READ_TIMEOUT_S,
            attempts=1,
            failure_threshold=1,
            reset_s=reset_s,
            transient=(StoreUnavailable,),
            metrics=watch.metrics,
        )

    async def read(self, query: str, body: Body[T], limit_s: float | None = None) -> T:
        """What `body` makes of a connection to the replica.

        Raises StoreUnavailable when it does not answer, follows no primary or lags too far, at once while its
        circuit is open; StoreError for what else it answers.
        """
        return await self._guard.call(self._read, query, body, limit_s)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def _read(self, query: str, body: Body[T], limit_s: float | None) -> T:
        try:
            pool = await self._open()
            async with pool.connection(query, limit_s=limit_s) as (db, deadline):
                await self._check_lag(db, pool.where)
                return await body(db, deadline)
        except StoreError as exc:
            log.warning("the replica cannot be read", query=query, reason=str(exc))
            raise

    async def _open(self) -> PostgresPool:
        async with self._opening:
            if self._pool is None:
                self._pool = await PostgresPool.open(
                    self._dsn, self._timeout_s, self._limits, database="replica", watch=self._watch
                )
            return self._pool

    async def _check_lag(self, db: Any, where: str) -> None:
        state = await db.fetchrow(_LAG)
        if not state["follows"]:
            raise StoreUnavailable(
                f"PostgreSQL at {where} follows no primary, so its rows may be of any age.",
                hint="LEVIBOT_POSTGRES_REPLICA_DSN names a streaming replica of LEVIBOT_POSTGRES_DSN.",
            )
        lag_s = state["lag_s"]
        if lag_s is not None and lag_s <= self._max_lag_s:
            return
        # A primary at rest commits nothing, and the newest commit grows old: what counts is what is missing.
        async with self._primary.connection("wal_position") as (primary, _):
            position = await primary.fetchval(_POSITION)
        if not await db.fetchval(_HAS_REPLAYED, position):
            behind = "an unknown time" if lag_s is None else f"{lag_s:.0f} s"
            raise StoreUnavailable(
                f"The replica at {where} lags by {behind}, more than {self._max_lag_s:g} s."
            )

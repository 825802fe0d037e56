"""The way to PostgreSQL: a pool to the primary, and one to a replica for the reads that allow lag."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import asyncpg

from levibot.errors import StoreError
from levibot.stores.postgres_deadline import Deadline
from levibot.stores.postgres_pool import PoolLimits, PostgresPool, Watch
from levibot.stores.postgres_replica import Replica

T = TypeVar("T")


class PostgresClient:
    """Hands out connections. State: the pools; belongs to the event loop that opened it."""

    def __init__(self, primary: PostgresPool, replica: Replica | None = None) -> None:
        self._primary = primary
        self._replica = replica

    @classmethod
    async def open(
        cls,
        dsn: str,
        timeout_s: float,
        limits: PoolLimits | None = None,
        *,
        replica_dsn: str | None = None,
        watch: Watch | None = None,
    ) -> Self:
        """Connect to the primary. The replica is connected to at its first read, and may be away.

        Raises StoreUnavailable when the primary does not answer, StoreError when it refuses us.
        """
        limits, watch = limits or PoolLimits(), watch or Watch()
        primary = await PostgresPool.open(dsn, timeout_s, limits, watch=watch)
        if replica_dsn is None:
            return cls(primary)
        return cls(primary, Replica(replica_dsn, timeout_s, limits, primary, watch=watch))

    async def close(self) -> None:
        """Close the connections, by force when a server does not take part in time."""
        if self._replica is not None:
            await self._replica.close()
        await self._primary.close()

    @asynccontextmanager
    async def connection(
        self, query: str, *, limit_s: float | None = None
    ) -> AsyncIterator[tuple[Any, Deadline]]:
        """A connection to the primary for the block; see `PostgresPool.connection`."""
        async with self._primary.connection(query, limit_s=limit_s) as held:
            yield held

    async def read(
        self,
        query: str,
        body: Callable[[Any, Deadline], Awaitable[T]],
        *,
        limit_s: float | None = None,
        allows_lag: bool = False,
    ) -> T:
        """What `body` makes of a connection; arguments and errors as of `connection`.

        allows_lag: the replica is asked first, where there is one, and the primary when it fails. `body` may
        therefore run twice, which is why it is a function and no block.
        """
        if allows_lag and self._replica is not None:
            try:
                return await self._replica.read(query, body, limit_s)
            except StoreError as exc:
                if isinstance(exc.__cause__, asyncpg.QueryCanceledError):
                    raise  # too long a query is no shorter on the primary
        async with self.connection(query, limit_s=limit_s) as (db, deadline):
            return await body(db, deadline)

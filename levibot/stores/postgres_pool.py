"""One pool of PostgreSQL connections whose every wait is bounded, on our side and on the server's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg

from levibot.errors import StoreUnavailable
from levibot.stores.connection_leaks import watch
from levibot.stores.pool_census import CENSUS, PoolCensus
from levibot.stores.postgres_deadline import Deadline, bounded
from levibot.stores.postgres_errors import is_broken_by, translated
from levibot.stores.query_profile import PROFILE, QueryProfile
from levibot.telemetry.metrics import DEFAULT, Metrics

STATEMENT_CACHE = 100


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What a pool may take.

    min_size: connections kept open while nothing happens. max_size: connections at most. statement_s: the
    server cancels a statement that runs for longer. held_s: a connection held for longer is a leak,
    unless its block may ask the server for longer than that.
    """

    min_size: int = 5
    max_size: int = 20
    statement_s: float = 10.0
    held_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Watch:
    """Where a pool accounts for itself."""

    metrics: Metrics = DEFAULT
    profile: QueryProfile = PROFILE
    census: PoolCensus = CENSUS


class PostgresPool:
    """Connections to one server. State: the pool, and who holds how many of it.

    Belongs to the event loop that opened it. database: `primary` or `replica`, for the metrics.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        dsn: str,
        timeout_s: float,
        limits: PoolLimits,
        *,
        is_pooled: bool,
        database: str,
        watch: Watch,
    ) -> None:
        self._pool = pool
        self._dsn = dsn
        self.where = address(dsn)
        self.timeout_s = timeout_s
        self.limits = limits
        self.is_pooled = is_pooled
        self._database = database
        self._watch = watch
        self._n_held = 0
        self._question: asyncio.Task[bool] | None = None

    @classmethod
    async def open(
        cls,
        dsn: str,
        timeout_s: float,
        limits: PoolLimits,
        *,
        database: str = "primary",
        watch: Watch | None = None,
    ) -> Self:
        """Connect `min_size` times.

        Raises StoreUnavailable when the server does not answer within `timeout_s`, StoreError when it refuses
        us.
        """
        watch = watch or Watch()
        with translated(address(dsn)):
            async with asyncio.timeout(timeout_s):
                is_pooled = await stands_before_server(dsn, timeout_s)
            # A time of its own: the server lives, and connections by the dozen cost it something.
            async with asyncio.timeout(timeout_s):
                pool = await asyncpg.create_pool(
                    dsn,
                    min_size=limits.min_size,
                    max_size=limits.max_size,
                    timeout=timeout_s,
                    **(_behind_pooler() if is_pooled else _direct(limits)),
                )
        _quieten()
        watch.census.add(database, pool)
        return cls(pool, dsn, timeout_s, limits, is_pooled=is_pooled, database=database, watch=watch)

    @property
    def size(self) -> int:
        """Connections that are open now."""
        return int(self._pool.get_size())

    async def close(self) -> None:
        """Close the connections, by force when the server does not take part in time."""
        self._watch.census.remove(self._database, self._pool)
        if self._question is not None:
            self._question.cancel()
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def connection(
        self, query: str, *, limit_s: float | None = None
    ) -> AsyncIterator[tuple[Any, Deadline]]:
        """A connection for the block, with the deadline that bounds it.

        query: what the block does, by name, for profile and messages. limit_s: the server's limit on each
        statement, default that of the pool; a block of many statements calls `extend` between them. Behind a
        pooler the block is one transaction; otherwise each statement is its own unless the block begins one.
        Raises StoreUnavailable when the server is silent, is gone or does not serve, and when every
        connection is in use; DataError when it refuses a value; StoreError for whatever else it answers.
        """
        statement_s = self.limits.statement_s if limit_s is None else limit_s
        held_s = max(self.limits.held_s, statement_s)
        with translated(self.where, query, statement_s):
            connection = await self._acquire(query)
            self._n_held += 1
            try:
                with (
                    watch(self._database, query, held_s, self._watch.metrics),
                    self._watch.profile.measure("postgres", query),
                ):
                    async with (
                        bounded(self.timeout_s, statement_s, self._is_alive) as deadline,
                        self._limited(connection, limit_s),
                    ):
                        yield connection, deadline
            finally:
                self._n_held -= 1
                await self._pool.release(connection, timeout=self.timeout_s)

    async def _acquire(self, query: str) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._pool.acquire()
        except TimeoutError as exc:
            if self._n_held < self.limits.max_size:
                raise
            raise StoreUnavailable(
                f"All {self.limits.max_size} connections to PostgreSQL at {self.where} are in use; none came "
                f"free for {query} within {self.timeout_s:g} s.",
                hint="Raise LEVIBOT_POSTGRES_POOL_MAX, or look for what holds them in the log.",
            ) from exc

    @asynccontextmanager
    async def _limited(self, connection: Any, limit_s: float | None) -> AsyncIterator[None]:
        """Put the server's limit on the block's statements, and end the block in order or by force."""
        limit_ms = round(1000 * (self.limits.statement_s if limit_s is None else limit_s))
        transaction = connection.transaction() if self.is_pooled else None
        try:
            if transaction is not None:
                await transaction.start()
                # The session is another client's after this transaction.
                await connection.execute(f"SET LOCAL statement_timeout = {limit_ms}")
            elif limit_s is not None:
                # The pool resets it to its own limit when the connection comes back.
                await connection.execute(f"SET statement_timeout = {limit_ms}")
            yield
        except BaseException as exc:
            if is_broken_by(exc):
                connection.terminate()
            elif transaction is not None:
                await transaction.rollback()
            raise
        if transaction is not None:
            await transaction.commit()

    async def _is_alive(self) -> bool:
        """Whether the server answers a new connection now. Many who wait share one question."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._answers())
        return await asyncio.shield(self._question)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self.timeout_s):
                await stands_before_server(self._dsn, self.timeout_s)
        except asyncpg.InsufficientResourcesError:
            return True  # it is full, which is an answer
        except (
            TimeoutError,
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ):
            return False
        return True


async def stands_before_server(dsn: str, timeout_s: float) -> bool:
    """Whether a pooler such as pgbouncer answers at this address.

    It tells every client a process id of its own invention, so that it can take requests to cancel.
    """
    connection = await asyncpg.connect(dsn, timeout=timeout_s, statement_cache_size=0)
    try:
        serving: int = await connection.fetchval("SELECT pg_backend_pid()")
        told: int = connection.get_server_pid()
        await connection.close(timeout=timeout_s)
    except BaseException:
        connection.terminate()
        raise
    return serving != told


def _direct(limits: PoolLimits) -> dict[str, Any]:
    settings = {
        "application_name": "levibot",
        "statement_timeout": str(round(1000 * limits.statement_s)),
        # A plan without the values reads a whole symbol where `ts < $4` would name the newest bar.
        "plan_cache_mode": "force_custom_plan",
    }
    return {"statement_cache_size": STATEMENT_CACHE, "server_settings": settings}


def _behind_pooler() -> dict[str, Any]:
    # A prepared statement and a setting stay with a session, and the next transaction gets another one.
    settings = {"application_name": "levibot"}
    return {"statement_cache_size": 0, "server_settings": settings, "reset": _nothing_to_reset}


async def _nothing_to_reset(_: Any) -> None:
    """Each block was a transaction, and left nothing."""


def address(dsn: str) -> str:
    """Host and port, for messages: the rest of a DSN holds the password."""
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port or 5432}"


def _quieten() -> None:
    logging.getLogger("asyncpg.pool").addFilter(_in_one_line)


def _in_one_line(record: logging.LogRecord) -> bool:
    """asyncpg restores lost connections by itself, and logs a traceback at each try: the reason is enough."""
    if record.exc_info and record.exc_info[1] is not None:
        exc = record.exc_info[1]
        record.msg = f"{record.getMessage()}: {exc or type(exc).__name__}"
        record.args, record.exc_info = (), None
    return True

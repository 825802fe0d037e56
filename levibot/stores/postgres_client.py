"""A PostgreSQL pool whose every wait is bounded, with its errors translated into ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg

from levibot.errors import DataError, StoreError, StoreUnavailable

MAX_CONNECTIONS = 10

# The server answers, but only to say that it will not serve now.
NOT_SERVING = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down, or recovering from a crash
    asyncpg.InsufficientResourcesError,  # no connection slot, no disk
)
# The connection is in the middle of something that will not end well. To tidy it up for the next user would
# wait for a silent server, or hide the error behind another one.
BROKEN = (TimeoutError, asyncio.CancelledError, OSError, asyncpg.InternalClientError, *NOT_SERVING)


class Deadline:
    """How long the server may stay silent. Each sign of life gives it the same time again."""

    def __init__(self, timeout: asyncio.Timeout, silence_s: float) -> None:
        self._timeout = timeout
        self._silence_s = silence_s

    def extend(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._silence_s)


class PostgresClient:
    """Hands out connections of one pool. State: the pool; belongs to the event loop that opened it.

    Works behind pgbouncer in transaction mode: no prepared statement outlives its transaction.
    """

    def __init__(self, pool: asyncpg.Pool, where: str, timeout_s: float) -> None:
        self._pool = pool
        self._where = where
        self.timeout_s = timeout_s

    @classmethod
    async def open(cls, dsn: str, timeout_s: float) -> Self:
        """Connect. Raises StoreUnavailable within `timeout_s`, StoreError when the server refuses us."""
        where = _address(dsn)
        with _translated(where):
            async with asyncio.timeout(timeout_s):
                pool = await asyncpg.create_pool(
                    dsn,
                    # A floor is restored in the background, with a traceback in the log at each failure.
                    min_size=0,
                    max_size=MAX_CONNECTIONS,
                    timeout=timeout_s,
                    statement_cache_size=0,
                    server_settings={"application_name": "levibot"},
                )
        client = cls(pool, where, timeout_s)
        try:
            async with client.connection() as (db, _):
                await db.execute("SELECT 1")
        except BaseException:
            pool.terminate()
            raise
        return client

    async def close(self) -> None:
        """Close the connections, by force when the server does not take part in time."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self, silence_s: float | None = None) -> AsyncIterator[tuple[Any, Deadline]]:
        """A connection for the block, with the deadline that bounds it (`silence_s`, default `timeout_s`).

        Raises StoreUnavailable when the server stays silent for longer, is gone or does not serve;
        DataError when it refuses a value; StoreError for whatever else it answers.
        """
        silence_s = self.timeout_s if silence_s is None else silence_s
        with _translated(self._where):
            async with asyncio.timeout(silence_s) as timeout:
                connection = await self._pool.acquire()
                try:
                    yield connection, Deadline(timeout, silence_s)
                except BROKEN:
                    connection.terminate()
                    raise
                finally:
                    await self._pool.release(connection, timeout=self.timeout_s)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise StoreUnavailable(f"PostgreSQL at {where} did not answer in time.") from exc
    except asyncpg.CheckViolationError as exc:
        raise DataError(f"PostgreSQL at {where} refused a value: {exc}.") from exc
    except (*NOT_SERVING, OSError) as exc:
        raise StoreUnavailable(f"PostgreSQL at {where} does not serve: {exc or type(exc).__name__}.") from exc
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
        if isinstance(exc, ValueError):  # a value or an address that the client itself refuses
            raise StoreError(f"The call to PostgreSQL at {where} is wrong: {exc}.") from exc
        raise StoreUnavailable(f"The connection to PostgreSQL at {where} is gone: {exc}.") from exc
    except asyncpg.PostgresError as exc:
        raise StoreError(f"PostgreSQL at {where} answered {exc.sqlstate}: {exc}.") from exc


def _address(dsn: str) -> str:
    """Host and port, for messages: the rest of a DSN holds the password."""
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port or 5432}"

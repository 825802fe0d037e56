"""redis-py's connections, which a cancelled task gives up at every point, and a pool that rarely waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection


class _Cancellable(AbstractConnection):
    """A connection whose writing loses no cancellation.

    redis-py writes within `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes when the
    writing is done: the task that was cancelled goes on as if nothing had been.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        task = asyncio.current_task()
        n_before = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > n_before:
            # An answer is on its way that nobody will read.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


class CancellableConnection(_Cancellable, Connection):
    """Over TCP."""


class CancellableTlsConnection(_Cancellable, SSLConnection):
    """Over TLS."""


class CancellableUnixConnection(_Cancellable, UnixDomainSocketConnection):
    """Over a Unix domain socket."""


# By the class that redis-py reads from a URL.
CANCELLABLE: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: CancellableConnection,
    SSLConnection: CancellableTlsConnection,
    UnixDomainSocketConnection: CancellableUnixConnection,
}


class WaitingPool(BlockingConnectionPool):
    """redis-py's pool that waits for a connection, without the cost of waiting where one is free.

    redis-py's own takes a lock, sets a timer and tells possible waiters at every command. State beside its
    own: how many wait.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._n_waiting = 0

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """A connection, as soon as one is free. Raises redis-py's ConnectionError when `timeout` is over."""
        # Nothing is awaited between the look and the taking. Who comes while others wait, waits with them.
        if self._n_waiting or self._in_maintenance or not self.can_get_connection():
            self._n_waiting += 1
            try:
                waited: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call]
            finally:
                self._n_waiting -= 1
            return waited
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Give a connection back, and wake one that waits for it."""
        if self._in_maintenance:
            await super().release(connection)
            return
        await ConnectionPool.release(self, connection)
        # Asked when the connection is back: who began to wait before sees it, or is seen here.
        if self._n_waiting:
            async with self._condition:
                self._condition.notify()

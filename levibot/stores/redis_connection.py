"""redis-py's connections, which a cancelled task gives up at every point."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

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

"""Connections that follow the primary of a Redis group, as its Sentinels name it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levibot.stores.redis_connection import CancellableConnection, WaitingPool
from levibot.stores.redis_url import SentinelUrl

T = TypeVar("T")

PAUSE_S = 0.05
# A frozen Sentinel is passed over after this long; a live one answers in a millisecond.
SENTINEL_TIMEOUT_S = 0.5


class Primary:
    """Knows where the primary is. State: a client of each Sentinel, the last one that answered first."""

    def __init__(self, url: SentinelUrl, *, timeout_s: float) -> None:
        self._service = url.service
        self._names = ", ".join(f"{host}:{port}" for host, port in url.sentinels)
        limit_s = min(timeout_s, SENTINEL_TIMEOUT_S)
        self._sentinels = Sentinel(  # type: ignore[no-untyped-call]
            url.sentinels,
            sentinel_kwargs={
                "username": url.sentinel_username,
                "password": url.sentinel_password,
                "socket_timeout": limit_s,
                "socket_connect_timeout": limit_s,
                # The repeat is the caller's, who asks all Sentinels again.
                "retry": Retry(NoBackoff(), 0),
            },
        )

    async def address(self) -> tuple[str, int]:
        """Host and port. Raises redis-py's ConnectionError while no Sentinel names a primary that lives."""
        try:
            host, port = await self._sentinels.discover_master(self._service)
        except MasterNotFoundError as exc:
            raise RedisConnectionError(
                f"no Sentinel of {self._names} names a living primary of {self._service!r}"
            ) from exc
        return str(host), int(port)

    async def close(self) -> None:
        await self._sentinels.aclose()


class PrimaryConnection(CancellableConnection):
    """A connection that asks for the primary each time it connects.

    redis-py's own Sentinel connection does so only when the pool hands it out: a repeat of a failed command
    goes to the old primary again.
    """

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        super().__init__(**options)
        self._primary = primary

    async def _connect(self) -> None:
        self.host, self.port = await self._primary.address()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def connect_check_health(
        self,
        check_health: bool = True,
        retry_socket_connect: bool = True,  # noqa: ARG002
    ) -> None:
        # One attempt: the repeats are those of the command, which have one deadline.
        await super().connect_check_health(check_health, retry_socket_connect=False)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        # A Sentinel that was cut off may name a primary that has long been replaced.
        await self.send_command("ROLE", check_health=False)
        role = (await self.read_response())[0]
        if role not in (b"master", "master"):
            raise RedisConnectionError(f"{self.host}:{self.port} is no primary any more")

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as exc:
            if not is_refused_by_former_primary(exc):
                raise
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self.host}:{self.port} takes no writes: {exc}") from exc


class PrimaryPool(WaitingPool):
    """A pool of `PrimaryConnection`s, which connect at their first command, inside its repeats."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        super().__init__(connection_class=PrimaryConnection, primary=primary, **options)
        self._primary = primary

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if not connection.is_connected:
            return
        try:
            is_usable = not await connection.can_read()
        except (RedisConnectionError, RedisTimeoutError, OSError):
            is_usable = False
        if not is_usable:
            await connection.disconnect()

    async def aclose(self) -> None:
        await super().aclose()
        await self._primary.close()


class RetryWithin(Retry):
    """Repeats what failed for `within_s`, counted from its first attempt."""

    def __init__(self, within_s: float) -> None:
        super().__init__(ConstantBackoff(PAUSE_S), -1)
        self._within_s = within_s

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        deadline = time.monotonic() + self._within_s

        def is_worth_it(error: Exception) -> bool:
            if isinstance(error, AuthenticationError) or time.monotonic() >= deadline:
                return False
            return is_retryable is None or is_retryable(error)

        return await super().call_with_retry(do, fail, is_worth_it, with_failure_count)


def is_refused_by_former_primary(exc: RedisError) -> bool:
    """Whether a server answered so as one that is a replica now, or has lost its replicas."""
    return isinstance(exc, ReadOnlyError) or "NOREPLICAS" in str(exc)

"""The one way to a Redis server: a pooled asyncio client, and its errors translated into ours."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levibot.errors import StoreError, StoreUnavailable

T = TypeVar("T")

MAX_CONNECTIONS = 32
HEALTH_CHECK_S = 15


def open_redis(url: str, *, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> Redis:
    """A client of the server at `url` (redis:// or unix://). Connects at the first call, not here.

    timeout_s: bounds the wait for a connection and for each answer. Answers are bytes.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=HEALTH_CHECK_S,
        # One more try: a pooled connection may have died unseen. Real retries are the guard's.
        retry=Retry(NoBackoff(), 1),
    )
    return Redis.from_pool(pool)


async def ask(what: str, answer: Awaitable[T]) -> T:
    """The answer of the server. Raises StoreUnavailable or StoreError, naming `what` was asked."""
    with translated(what):
        return await answer


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what redis-py raises into our errors."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, ReadOnlyError) as exc:
        raise StoreUnavailable(f"Redis did not answer ({what}): {str(exc).rstrip('.')}.") from exc
    except RedisError as exc:
        raise StoreError(f"Redis refused to {what}: {exc}.") from exc

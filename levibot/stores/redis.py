"""The one way to Redis: a pooled asyncio client, and its errors translated into ours.

A call may reach the server twice: one whose answer was lost is sent again. What must not happen twice is
written so that a repeat does no harm: a script that compares, `SET NX` with a token of the caller's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levibot.errors import StoreError, StoreUnavailable
from levibot.stores.failover import Primary, PrimaryPool, RetryWithin, is_refused_by_former_primary
from levibot.stores.redis_connection import CANCELLABLE, WaitingPool
from levibot.stores.redis_url import check_url, is_sentinel, parse_sentinel

T = TypeVar("T")

MAX_CONNECTIONS = 32
HEALTH_CHECK_S = 15
# A failover takes about 3 s with ops/redis/sentinel.conf.
FAILOVER_S = 5.0


def open_redis(
    url: str,
    *,
    timeout_s: float,
    failover_s: float = FAILOVER_S,
    max_connections: int = MAX_CONNECTIONS,
) -> Redis:
    """A client of the server at `url` (levibot/stores/redis_url.py). Connects at the first call, not here.

    timeout_s: bounds the wait for a connection and for each answer. failover_s: behind Sentinels, how long a
    call is repeated while no primary takes it; its last attempt may begin just before. Answers are bytes.
    Raises SettingsError, without the password, when the URL cannot be used.
    """
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
    }
    if is_sentinel(url):
        at = parse_sentinel(url)
        login = {"username": at.username, "password": at.password, "db": at.db}
        primary = Primary(at, timeout_s=timeout_s)
        pool: WaitingPool = PrimaryPool(
            primary=primary, retry=RetryWithin(failover_s), socket_timeout=timeout_s, **login, **options
        )
        return Redis.from_pool(pool)
    check_url(url)
    pool = WaitingPool.from_url(
        url,
        health_check_interval=HEALTH_CHECK_S,
        # One more try: a pooled connection may have died unseen. Real retries are the guard's.
        retry=Retry(NoBackoff(), 1),
        socket_timeout=timeout_s,
        **options,
    )
    pool.connection_class = CANCELLABLE[pool.connection_class]
    return Redis.from_pool(pool)


def has_replicas(client: Redis) -> bool:
    """Whether the client was opened on a group behind Sentinels."""
    return isinstance(client.connection_pool, PrimaryPool)


async def ask(what: str, answer: Awaitable[T]) -> T:
    """The answer of the server. Raises StoreUnavailable or StoreError, naming `what` was asked."""
    try:
        return await answer
    except RedisError:
        # Entered only then: of a call that takes 60 us this is a part that one can measure.
        with translated(what):
            raise


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what redis-py raises into our errors."""
    try:
        yield
    except (AuthenticationError, AuthorizationError) as exc:
        # Of the kind of ConnectionError in redis-py, and yet an answer: no repeat cures it.
        raise StoreError(
            f"Redis refused the login ({what}): {_text(exc)}.", hint="Correct user and password of its URL."
        ) from exc
    except (RedisConnectionError, RedisTimeoutError, NoScriptError) as exc:
        # A script is unknown where the server was replaced between its upload and its call.
        raise StoreUnavailable(f"Redis did not answer ({what}): {_text(exc)}.") from exc
    except OutOfMemoryError as exc:
        raise StoreError(
            f"Redis is full and refused to {what}: {_text(exc)}.",
            hint="Raise maxmemory, or find what fills it.",
        ) from exc
    except RedisError as exc:
        if is_refused_by_former_primary(exc):
            raise StoreUnavailable(f"Redis takes no writes now ({what}): {_text(exc)}.") from exc
        raise StoreError(f"Redis refused to {what}: {_text(exc)}.") from exc


def _text(exc: RedisError) -> str:
    return str(exc).rstrip(".") or type(exc).__name__

"""The pool of connections to a real server: as many as allowed, in turn, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from levibot.errors import StoreUnavailable
from levibot.stores.redis import ask, open_redis

pytestmark = pytest.mark.stores


async def test_many_commands_share_few_connections(redis_url: str) -> None:
    client = open_redis(redis_url, timeout_s=10.0, max_connections=2)
    asked = 0

    async def one(n: int) -> bytes:
        nonlocal asked
        answer: bytes = await client.echo(str(n))
        asked += 1
        assert len(client.connection_pool._in_use_connections) <= 2
        return answer

    # Bursts, so that commands come while others wait and while none does.
    for burst in (1, 3, 50, 2, 200):
        assert await asyncio.gather(*map(one, range(burst))) == [str(n).encode() for n in range(burst)]
    assert asked == 256
    pool = client.connection_pool
    assert len(pool._available_connections) == 2
    assert pool._n_waiting == 0
    await client.aclose()


async def test_who_gives_up_waiting_takes_no_connection_along(redis_url: str) -> None:
    client = open_redis(redis_url, timeout_s=10.0, max_connections=1)
    held = await client.connection_pool.get_connection()
    waiting = [asyncio.ensure_future(client.ping()) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[2].cancel()
    await client.connection_pool.release(held)
    first, second, third, fourth = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(third, asyncio.CancelledError)
    assert second is True
    assert fourth is True
    assert await client.ping()
    await client.aclose()


async def test_a_wait_that_takes_too_long_is_an_error_and_not_for_ever(redis_url: str) -> None:
    client = open_redis(redis_url, timeout_s=0.05, max_connections=1)
    held = await client.connection_pool.get_connection()
    with pytest.raises(StoreUnavailable, match="No connection available"):
        await ask("ping", client.ping())
    await client.connection_pool.release(held)
    assert await client.ping()
    await client.aclose()


async def test_a_connection_that_cannot_be_made_is_given_back() -> None:
    client: Redis = open_redis("redis://127.0.0.1:1", timeout_s=1.0, max_connections=1)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await ask("ping", client.ping())
    assert not client.connection_pool._in_use_connections
    await client.aclose()

"""The limit of the keys: one count for all replicas, few calls of Redis, and its own without it."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from levibot.access.key_limiter import LONGEST_LEASE, KeyLimiter
from levibot.stores.rate_limiter import Limit, RateLimiter, WhenAway
from levibot.stores.redis import open_redis
from tests.servers.debian_redis import RedisNode

LIMIT = Limit(capacity=100, refill=500)


def limiter(client: Redis, name: str, limit: Limit = LIMIT, now_us: int = 1) -> KeyLimiter:
    shared = RateLimiter(client, name, limit, when_away=WhenAway.ALLOW, now_us=lambda: now_us)
    return KeyLimiter(shared, timeout_s=2.0, monotonic=lambda: 1.0)


async def test_replicas_together_let_the_limit_pass_and_nothing_above_it(client: Redis) -> None:
    replicas = [limiter(client, "together") for _ in range(3)]
    waits = await asyncio.gather(*(replicas[k % 3].wait_s("a") for k in range(3 * 200)))
    allowed = sum(wait == 0.0 for wait in waits)
    # What a replica has leased and not used is paid for all the same.
    assert 100 - 2 * LONGEST_LEASE <= allowed <= 100
    assert all(0.0 < wait <= 1.0 for wait in waits if wait)
    # Another key has its own.
    assert await replicas[0].wait_s("b") == 0.0


async def test_a_low_limit_is_counted_one_by_one(client: Redis) -> None:
    one = limiter(client, "low", Limit(capacity=3, refill=1))
    waits = [await one.wait_s("a") for _ in range(5)]
    assert waits[:3] == [0.0] * 3
    assert all(wait > 0.0 for wait in waits[3:])


async def test_a_lease_spares_redis_its_calls(client: Redis) -> None:
    before = (await client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]
    one = limiter(client, "spared", Limit(capacity=1000, refill=2000))
    for _ in range(320):
        assert await one.wait_s("a") == 0.0
    after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    # The first one may be sent again with the script's text.
    assert after - before <= 320 / LONGEST_LEASE + 1


async def test_without_redis_each_replica_counts_by_itself_and_soon_without_waiting(node: RedisNode) -> None:
    node.start()
    client = open_redis(node.url, timeout_s=2.0)
    shared = RateLimiter(client, "away", Limit(capacity=5, refill=1), when_away=WhenAway.ALLOW)
    now = 10.0
    one = KeyLimiter(shared, timeout_s=0.05, monotonic=lambda: now)
    try:
        assert await one.wait_s("a") == 0.0
        node.freeze()
        waits = [await one.wait_s("a") for _ in range(8)]
        assert waits[:5] == [0.0] * 5
        assert all(0.0 < wait <= 1.0 for wait in waits[5:])
        assert one.state == "opened"
        now += 1.0
        assert [await one.wait_s("a") > 0.0 for _ in range(2)] == [False, True]
    finally:
        node.resume()
        await client.aclose()

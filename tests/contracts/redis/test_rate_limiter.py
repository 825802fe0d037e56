"""The token bucket against a model of whole numbers, under concurrency, and while Redis is away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis as plain
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from levibot.errors import RateLimited, UsageError
from levibot.stores.rate_limiter import MICRO, TAKE, Decision, Limit, RateLimiter, WhenAway
from levibot.stores.redis import open_redis
from levibot.telemetry.metrics import Metrics
from tests.servers.debian_redis import RedisNode

pytestmark = pytest.mark.stores

LATER_US = 2_000_000_000 * MICRO


@dataclass
class Bucket:
    """The model: a bucket in whole units, on a clock that is told to it."""

    limit: Limit
    units: int
    at_us: int

    def take(self, cost: int, now_us: int) -> tuple[bool, int, int]:
        """allowed, whole calls left, microseconds to wait."""
        limit = self.limit
        at_us = max(now_us, self.at_us)
        units = min(limit.capacity * limit.unit, self.units + (at_us - self.at_us) * limit.refill)
        short = cost * limit.unit - units
        if short > 0:
            return False, units // limit.unit, -(-short // limit.refill) + at_us - now_us
        self.units, self.at_us = units - cost * limit.unit, at_us
        return True, self.units // limit.unit, 0


# Long periods, so that a bucket outlives the example in real time.
limits = st.builds(Limit, st.integers(1, 50), st.integers(1, 50), st.integers(3600, 86_400))
steps = st.lists(st.tuples(st.floats(0, 1.2), st.floats(0, 1), st.integers(-2, 2)), max_size=20)


@pytest.fixture
def caller() -> str:
    return secrets.token_hex(6)


@pytest.fixture(scope="module")
def one_shot(shared_node: RedisNode) -> Iterator[plain.Redis]:
    """A client for hypothesis, whose examples are no coroutines."""
    with shared_node.client() as opened:
        yield opened


@given(limit=limits, steps=steps)
def test_the_script_is_the_model_to_the_last_microsecond(
    one_shot: plain.Redis, limit: Limit, steps: list[tuple[float, float, int]]
) -> None:
    take = one_shot.register_script(TAKE)
    key = f"rate:model:{secrets.token_hex(8)}"
    full_us = limit.capacity * limit.unit // limit.refill
    model = Bucket(limit, limit.capacity * limit.unit, LATER_US)
    now_us = LATER_US
    for pause, share, nudge in steps:
        # The nudge puts some instants right before and after the one at which a call becomes possible.
        now_us = max(LATER_US, now_us + round(pause * full_us) + nudge)
        cost = max(1, round(share * limit.capacity))
        arguments = [limit.capacity * limit.unit, cost * limit.unit, limit.refill, now_us]
        allowed, units, wait_us = (int(part) for part in take([key], arguments))
        assert (bool(allowed), units // limit.unit, wait_us) == model.take(cost, now_us)
    one_shot.delete(key)


async def test_after_the_told_wait_the_call_goes_through_and_not_before(client: Redis, caller: str) -> None:
    now_us = LATER_US
    limiter = RateLimiter(client, "wait", Limit(3, 7, 3600), when_away=WhenAway.REFUSE, now_us=lambda: now_us)
    for _ in range(3):
        assert (await limiter.decide(caller)).allowed
    refused = await limiter.decide(caller)
    assert (refused.allowed, refused.remaining, refused.is_fallback) == (False, 0, False)
    now_us += round(refused.retry_after_s * MICRO) - 1
    assert not (await limiter.decide(caller)).allowed
    now_us += 1
    assert (await limiter.decide(caller)).allowed


async def test_many_callers_at_once_never_get_more_than_the_limit(
    redis_url: str, client: Redis, caller: str
) -> None:
    limit = Limit(capacity=40, refill=200)
    clients = [open_redis(redis_url, timeout_s=5.0) for _ in range(4)]
    limiters = [RateLimiter(c, "many", limit, when_away=WhenAway.REFUSE) for c in clients]
    start = await server_time(client)
    allowed = 0

    async def ask_on(limiter: RateLimiter) -> int:
        return sum([(await limiter.decide(caller)).allowed for _ in range(60)])

    allowed = sum(await asyncio.gather(*(ask_on(limiters[n % 4]) for n in range(24))))
    elapsed_s = await server_time(client) - start
    for opened in clients:
        await opened.aclose()
    most = limit.capacity + limit.refill * elapsed_s
    # It is given out to the last one, too: every task asked on while tokens flowed.
    assert 0.5 * most < allowed <= most


async def test_the_clock_is_the_servers(client: Redis, caller: str) -> None:
    limiter = RateLimiter(client, "clock", Limit(1, 1, 3600), when_away=WhenAway.REFUSE)
    before = await server_time(client)
    await limiter.decide(caller)
    stored = await client.get(f"rate:clock:{caller}")
    after = await server_time(client)
    assert before <= int(stored.split()[1]) / MICRO <= after


async def test_a_clock_that_ran_far_ahead_does_not_block_a_bucket(client: Redis, caller: str) -> None:
    now_us = LATER_US
    limiter = RateLimiter(
        client, "ahead", Limit(1, 1, 3600), when_away=WhenAway.REFUSE, now_us=lambda: now_us
    )
    now_us += 10**6 * 3600 * MICRO
    assert (await limiter.decide(caller)).allowed
    now_us = LATER_US
    assert (await limiter.decide(caller)).retry_after_s == 3600.0


async def test_a_bucket_is_one_small_key_that_expires_when_it_is_full(client: Redis, caller: str) -> None:
    limiter = RateLimiter(client, "small", Limit(100, 10), when_away=WhenAway.REFUSE)
    key = f"rate:small:{caller}"
    sizes = set()
    for _ in range(50):
        await limiter.decide(caller)
        sizes.add(await client.memory_usage(key))
    assert max(sizes) - min(sizes) <= 16
    assert max(sizes) < 200
    assert 1000 < await client.pttl(key) <= 50 / 10 * 1000 + 1000


async def test_a_refusal_writes_nothing(client: Redis, caller: str) -> None:
    limiter = RateLimiter(client, "quiet", Limit(1, 1, 3600), when_away=WhenAway.REFUSE)
    await limiter.decide(caller)
    stored = await client.get(f"rate:quiet:{caller}")
    assert not (await limiter.decide(caller)).allowed
    assert await client.get(f"rate:quiet:{caller}") == stored


async def test_taking_more_than_there_is_raises_with_the_wait(client: Redis, caller: str) -> None:
    metrics = Metrics(CollectorRegistry())
    limiter = RateLimiter(client, "orders", Limit(2, 1, 60), when_away=WhenAway.REFUSE, metrics=metrics)
    assert (await limiter.take(caller, cost=2)).remaining == 0
    with pytest.raises(
        RateLimited, match=f"{caller} may call 1 times in 60 s .orders.: it is spent"
    ) as refusal:
        await limiter.take(caller)
    assert refusal.value.retry_after_s is not None
    assert 55 < refusal.value.retry_after_s <= 60
    assert refusal.value.is_transient
    assert metrics.rate_limited.labels("orders")._value.get() == 1


async def test_callers_and_limits_do_not_share_a_bucket(client: Redis, caller: str) -> None:
    one = RateLimiter(client, "one", Limit(1, 1, 3600), when_away=WhenAway.REFUSE)
    two = RateLimiter(client, "two", Limit(1, 1, 3600), when_away=WhenAway.REFUSE)
    assert [d.allowed for d in await one.decide_many([caller, caller, caller + "b"])] == [True, False, True]
    assert (await two.decide(caller)).allowed


async def test_no_callers_are_no_question(client: Redis) -> None:
    limiter = RateLimiter(client, "none", Limit(1, 1), when_away=WhenAway.REFUSE)
    assert await limiter.decide_many([]) == []


@pytest.mark.parametrize(
    ("when_away", "said"),
    [
        (WhenAway.ALLOW, Decision(True, 0, 0.0, is_fallback=True)),
        (WhenAway.REFUSE, Decision(False, 0, 2.5, is_fallback=True)),
    ],
)
async def test_while_redis_is_away_the_caller_has_said_what_holds(
    node: RedisNode, when_away: WhenAway, said: Decision
) -> None:
    node.start()
    client = open_redis(node.url, timeout_s=0.5)
    metrics = Metrics(CollectorRegistry())
    limiter = RateLimiter(client, "away", Limit(9, 1), when_away=when_away, retry_s=2.5, metrics=metrics)
    assert (await limiter.decide("x")).remaining == 8
    node.kill()
    assert await limiter.decide("x") == said
    assert await limiter.decide_many(["x", "y"]) == [said, said]
    if not said.allowed:
        with pytest.raises(RateLimited, match="Redis does not answer, and this limit refuses then"):
            await limiter.take("x")
    node.start()
    again = await limiter.decide("x")
    assert (again.allowed, again.is_fallback) == (True, False)
    await client.aclose()


@pytest.mark.parametrize("cost", [0, -1, 4])
async def test_a_cost_that_can_never_be_paid_is_refused(client: Redis, cost: int) -> None:
    limiter = RateLimiter(client, "cost", Limit(3, 1), when_away=WhenAway.ALLOW)
    with pytest.raises(UsageError, match="outside 1 to the capacity 3"):
        await limiter.decide("x", cost)


@pytest.mark.parametrize(
    ("capacity", "refill", "per_s"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (10**6, 1, 86_400)]
)
def test_a_limit_that_cannot_be_counted_is_refused(capacity: int, refill: int, per_s: int) -> None:
    with pytest.raises(UsageError):
        Limit(capacity, refill, per_s)


async def server_time(client: Redis) -> float:
    seconds, micros = await client.time()
    assert abs(seconds - time.time()) < 3600
    return float(seconds + micros / MICRO)

"""What every account of a paid source keeps: its limit, under concurrency and over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.errors import SourceDisabled, StoreError, StoreUnavailable
from levibot.market.budget import NANO_PER_USD, DailyBudget, MemorySpending, Spending
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.spending import RedisSpending

DAY, NEXT_DAY = date(2026, 3, 1), date(2026, 3, 2)
SOURCE = "OpenAI"


class SpendingContract:
    """Inherited by one class an implementation, which gives `spending`."""

    async def test_an_account_begins_at_zero_and_adds_up(self, spending: Spending) -> None:
        assert await spending.spent_nano_usd(SOURCE, DAY) == 0
        assert await spending.reserve(SOURCE, DAY, 30, 100)
        assert await spending.reserve(SOURCE, DAY, 70, 100)
        assert await spending.spent_nano_usd(SOURCE, DAY) == 100

    async def test_what_goes_beyond_the_limit_leaves_the_account_as_it_is(self, spending: Spending) -> None:
        assert await spending.reserve(SOURCE, DAY, 99, 100)
        assert not await spending.reserve(SOURCE, DAY, 2, 100)
        assert await spending.reserve(SOURCE, DAY, 1, 100)

    async def test_a_cost_is_settled_in_both_directions(self, spending: Spending) -> None:
        await spending.reserve(SOURCE, DAY, 50, 100)
        await spending.settle(SOURCE, DAY, -30)
        await spending.settle(SOURCE, DAY, 5)
        assert await spending.spent_nano_usd(SOURCE, DAY) == 25

    async def test_days_and_sources_have_their_own_accounts(self, spending: Spending) -> None:
        assert await spending.reserve(SOURCE, DAY, 100, 100)
        assert await spending.reserve(SOURCE, NEXT_DAY, 100, 100)
        assert await spending.reserve("another", DAY, 100, 100)

    async def test_many_at_once_never_go_beyond_the_limit(self, spending: Spending) -> None:
        given_out = await asyncio.gather(*(spending.reserve(SOURCE, DAY, 7, 100) for _ in range(50)))
        assert sum(given_out) == 14
        assert await spending.spent_nano_usd(SOURCE, DAY) == 98


class TestMemory(SpendingContract):
    @pytest.fixture
    def spending(self) -> Spending:
        return MemorySpending()

    async def test_days_that_are_over_are_forgotten(self) -> None:
        spending = MemorySpending()
        await spending.reserve(SOURCE, DAY, 7, 100)
        await spending.reserve(SOURCE, NEXT_DAY, 7, 100)
        assert await spending.spent_nano_usd(SOURCE, DAY) == 0


@pytest.mark.stores
class TestRedis(SpendingContract):
    @pytest.fixture
    async def redis(self, redis_url: str) -> AsyncIterator[Redis]:
        client = open_redis(redis_url, timeout_s=2.0)
        for key in await client.keys("budget:*"):
            await client.delete(key)
        yield client
        await client.aclose()

    @pytest.fixture
    def spending(self, redis: Redis) -> Spending:
        return RedisSpending(redis)

    async def test_another_process_sees_what_is_spent(self, redis: Redis, redis_url: str) -> None:
        await RedisSpending(redis).reserve(SOURCE, DAY, 60, 100)
        other = open_redis(redis_url, timeout_s=2.0)
        assert not await RedisSpending(other).reserve(SOURCE, DAY, 60, 100)
        await other.aclose()

    async def test_an_account_has_its_name_and_ends(self, redis: Redis) -> None:
        spending = RedisSpending(redis)
        await spending.reserve(SOURCE, DAY, 60, 100)
        assert 86_400 < await redis.ttl("budget:OpenAI:2026-03-01") <= 3 * 86_400
        await spending.settle(SOURCE, NEXT_DAY, -60)
        assert await redis.get("budget:OpenAI:2026-03-02") is None

    async def test_an_account_that_is_no_number_is_a_store_error(self, redis: Redis) -> None:
        await redis.set("budget:OpenAI:2026-03-01", "much")
        with pytest.raises(StoreError, match="holds no number"):
            await RedisSpending(redis).spent_nano_usd(SOURCE, DAY)

    async def test_a_server_that_is_gone_makes_the_account_unavailable(self) -> None:
        client = open_redis(f"redis://127.0.0.1:{free_port()}", timeout_s=0.5)
        with pytest.raises(StoreUnavailable, match="reserve money"):
            await RedisSpending(client).reserve(SOURCE, DAY, 1, 100)
        await client.aclose()


@given(st.lists(st.tuples(st.floats(0.0, 0.4), st.floats(0.0, 0.4)), max_size=20))
def test_what_calls_cost_never_goes_beyond_the_limit(calls: list[tuple[float, float]]) -> None:
    async def spend() -> None:
        budget = DailyBudget(SOURCE, 1.0, MemorySpending(), ManualClock(datetime(2026, 3, 1, tzinfo=UTC)))
        total_usd = 0.0
        for most_usd, cost_usd in calls:
            try:
                reservation = await budget.reserve(most_usd)
            except SourceDisabled:
                # Refused only where it would not have fitted.
                assert total_usd + most_usd > 1.0 - 1e-6
                continue
            await reservation.settle(min(cost_usd, most_usd))
            total_usd += min(cost_usd, most_usd)
        assert total_usd <= 1.0 + len(calls) / NANO_PER_USD

    asyncio.run(spend())

"""The canary's signals beside those that serve, in a real Redis-protocol server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.errors import DataError, StoreError
from levibot.stores.online import OnlineStore, Signal
from levibot.stores.online_signals import CANARY, CanaryShare

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
TENTH = CanaryShare("v1.1.0", 0.1)


def open_store(redis_url: str, market: str = "simulated:1h") -> OnlineStore:
    return OnlineStore.open(
        *(redis_url, market, "v-abc", ("ret_1",)),
        clock=ManualClock(NOON),
        interval=timedelta(hours=1),
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[OnlineStore]:
    opened = open_store(redis_url)
    yield opened
    await opened.end_canary()
    await opened.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def served() -> Signal:
    symbol = f"T{secrets.token_hex(6).upper()}"
    return Signal(symbol, NOON, 0.55, -0.25, "v1.0.2", "v-abc", "simulated:1h", "simulated", 0.0012)


async def test_one_read_finds_both_arms_and_neither_takes_the_others_place(
    store: OnlineStore, served: Signal
) -> None:
    beside = replace(served, model_version="v1.1.0", target_position=0.5)
    assert (await store.read_arms([served.symbol])).canary is None
    await store.write_canary(TENTH, [beside], 30.0)
    await store.write_signals([served], 30.0)
    arms = await store.read_arms([served.symbol, "ABSENT"])
    assert arms.champion == {served.symbol: served, "ABSENT": None}
    assert arms.canary == TENTH
    assert (arms.canary_signal(served.symbol), arms.canary_signal("ABSENT")) == (beside, None)
    assert await store.read_signal(served.symbol) == served
    await store.end_canary()
    assert (await store.read_arms([served.symbol])).canary is None
    assert (await store.read_arms([])).champion == {}


async def test_lives_are_renewed_and_what_is_gone_is_written_again(
    store: OnlineStore, redis: Redis, served: Signal
) -> None:
    beside = replace(served, model_version="v1.1.0")
    key = f"{served.symbol}:signal:canary"
    await store.write_canary(TENTH, [beside], 30.0)
    await store.renew_canary(TENTH, [beside], 90.0)
    assert min(await redis.pttl(key), await redis.pttl(CANARY)) > 80_000
    await redis.delete(key)
    await store.renew_canary(TENTH, [beside], 30.0)
    assert (await store.read_arms([served.symbol])).canary_signal(served.symbol) == beside


async def test_another_markets_canary_is_none_and_a_strange_key_harms_no_champion(
    store: OnlineStore, redis_url: str, redis: Redis, served: Signal
) -> None:
    await store.write_signals([served], 30.0)
    other = open_store(redis_url, "another")
    await other.write_canary(TENTH, [], 30.0)
    await other.close()
    assert (await store.read_arms([served.symbol])).canary is None
    for text in ("{", "7", '{"market_id": "simulated:1h", "view_version": "v-abc"}'):
        await redis.set(CANARY, text)
        arms = await store.read_arms([served.symbol])
        assert arms.champion == {served.symbol: served}
        with pytest.raises(StoreError, match=CANARY):
            _ = arms.canary


async def test_a_signal_of_another_version_or_without_limits_is_refused_and_nothing_written(
    store: OnlineStore, served: Signal
) -> None:
    for wrong in (served, replace(served, model_version="v1.1.0", probability_up=1.5)):
        with pytest.raises(DataError):
            await store.write_canary(TENTH, [wrong], 30.0)
    assert (await store.read_arms([served.symbol])).canary is None

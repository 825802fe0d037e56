"""Signals in a real Redis-protocol server."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.errors import DataError, StoreError
from levibot.stores.online import OnlineStore, Signal

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MARKET, VIEW = "simulated:1h", "v-abc"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
async def store(redis_url: str, clock: ManualClock) -> AsyncIterator[OnlineStore]:
    opened = open_store(redis_url, clock)
    yield opened
    await opened.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def signal() -> Signal:
    symbol = f"T{secrets.token_hex(6).upper()}"
    return Signal(symbol, NOON, 0.55, -0.25, "v1.0.2", VIEW, MARKET, "ensemble", 0.0012)


def open_store(redis_url: str, clock: ManualClock, market: str = MARKET, view: str = VIEW) -> OnlineStore:
    return OnlineStore.open(
        *(redis_url, market, view, ("ret_1",)),
        clock=clock,
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )


async def test_a_signal_comes_back_as_written(store: OnlineStore, redis: Redis, signal: Signal) -> None:
    assert await store.write_signals([signal], ttl_s=30.0) == (signal.symbol,)
    assert await store.read_signal(signal.symbol) == signal
    assert 0 < await redis.pttl(f"{signal.symbol}:signal") <= 30_000


@given(
    probability=st.floats(0.0, 1.0),
    position=st.floats(-10.0, 10.0),
    expected=st.none() | st.floats(-1.0, 1.0),
    offset_us=st.integers(0, 10**10),
)
def test_numbers_and_instants_are_exact(
    redis_url: str, probability: float, position: float, expected: float | None, offset_us: int
) -> None:
    async def round_trip() -> None:
        as_of = NOON - timedelta(microseconds=offset_us)
        symbol = f"T{secrets.token_hex(8).upper()}"
        sent = Signal(symbol, as_of, probability, position, "v1", VIEW, MARKET, "x", expected)
        store = open_store(redis_url, ManualClock(NOON))
        try:
            await store.write_signals([sent], ttl_s=5.0)
            assert await store.read_signal(symbol) == sent
        finally:
            await store.close()

    asyncio.run(round_trip())


async def test_a_signal_that_was_never_written_is_none(store: OnlineStore, signal: Signal) -> None:
    assert await store.read_signal(signal.symbol) is None


async def test_the_age_of_a_signal_grows_with_the_market(signal: Signal, clock: ManualClock) -> None:
    assert signal.age_s(clock.now()) == 0.0
    clock.advance(90)
    assert signal.age_s(clock.now()) == 90.0
    clock.advance(-180)
    assert signal.age_s(clock.now()) == 0.0


async def test_an_older_signal_does_not_replace_a_newer_one(store: OnlineStore, signal: Signal) -> None:
    await store.write_signals([signal], ttl_s=30.0)
    older = replace(signal, as_of=NOON - timedelta(microseconds=1), probability_up=0.1)
    assert await store.write_signals([older], ttl_s=30.0) == ()
    assert await store.read_signal(signal.symbol) == signal


async def test_the_newest_signal_wins_among_concurrent_writers(store: OnlineStore, signal: Signal) -> None:
    hours = list(range(40))
    random.Random(5).shuffle(hours)
    await asyncio.gather(
        *(store.write_signals([replace(signal, as_of=NOON - h * HOUR)], ttl_s=30.0) for h in hours)
    )
    found = await store.read_signal(signal.symbol)
    assert found is not None
    assert found.as_of == NOON


@pytest.mark.parametrize("other", [{"market": "simulated:1d"}, {"view": "v-abd"}])
async def test_a_signal_of_another_market_or_view_is_none(
    store: OnlineStore, redis_url: str, clock: ManualClock, signal: Signal, other: dict[str, str]
) -> None:
    await store.write_signals([signal], ttl_s=30.0)
    reader = open_store(redis_url, clock, **other)
    assert await reader.read_signal(signal.symbol) is None
    await reader.close()


async def test_a_signal_of_an_earlier_replay_is_none_and_blocks_nobody(
    store: OnlineStore, clock: ManualClock, signal: Signal
) -> None:
    await store.write_signals([signal], ttl_s=30.0)
    clock.advance(-86_400)
    assert await store.read_signal(signal.symbol) is None
    again = replace(signal, as_of=clock.now())
    assert await store.write_signals([again], ttl_s=30.0) == (signal.symbol,)


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"as_of": "2024-05-01T12:00:00+00:00"}', '{"as_of": 3}']
)
async def test_a_malformed_signal_is_an_error_that_names_the_key(
    store: OnlineStore, redis: Redis, signal: Signal, text: str
) -> None:
    await redis.set(f"{signal.symbol}:signal", text, px=5000)
    with pytest.raises(StoreError, match=f"{signal.symbol}:signal does not hold a signal"):
        await store.read_signal(signal.symbol)
    assert await store.write_signals([signal], ttl_s=30.0) == (signal.symbol,)


async def test_a_signal_without_a_time_zone_in_the_store_is_an_error(
    store: OnlineStore, redis: Redis, signal: Signal
) -> None:
    await store.write_signals([signal], ttl_s=30.0)
    text = (await redis.get(f"{signal.symbol}:signal")).replace(b"+00:00", b"")
    await redis.set(f"{signal.symbol}:signal", text, px=5000)
    with pytest.raises(StoreError, match="does not hold a signal"):
        await store.read_signal(signal.symbol)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"probability_up": 1.01}, "probability_up"),
        ({"probability_up": float("nan")}, "probability_up"),
        ({"target_position": float("inf")}, "target_position"),
        ({"expected_return": float("nan")}, "expected_return"),
        ({"as_of": NOON.replace(tzinfo=None)}, "without a time zone"),
        ({"market_id": "other"}, "this store holds"),
        ({"view_version": "other"}, "this store holds"),
    ],
)
async def test_a_signal_out_of_its_limits_is_refused(
    store: OnlineStore, signal: Signal, change: dict[str, object], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        await store.write_signals([replace(signal, **change)], ttl_s=30.0)
    assert await store.read_signal(signal.symbol) is None

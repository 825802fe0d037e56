"""Lives and clocks of features in a real Redis-protocol server: fractions of seconds, clocks that differ.

The market here lies in 2024 and the server's clock does not: in every test of this folder the two differ.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from redis.asyncio import Redis

from levibot.clock import Clock, ManualClock
from levibot.stores.capabilities import ServerCapabilities
from levibot.stores.online import (
    FeatureReading,
    FeatureWindow,
    Freshness,
    OnlineStore,
    ValueReading,
    ValueTime,
)

pytestmark = pytest.mark.stores

BAR = timedelta(seconds=0.2)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NAMES = ("ret_1", "nft_floor")
MISSING = ValueReading(None, Freshness.MISSING, None)
Opener = Callable[..., OnlineStore]


class RunningClock:
    """A market that runs as fast as the machine, on a clock that is `ahead_s` of the true one."""

    rate = 1.0

    def __init__(self, started_s: float, ahead_s: float = 0.0) -> None:
        self._started_s = started_s
        self._ahead_s = ahead_s

    def now(self) -> datetime:
        return NOON + timedelta(seconds=time.monotonic() - self._started_s + self._ahead_s)


@pytest.fixture
def started_s() -> float:
    return time.monotonic()


@pytest.fixture
async def opener(redis_url: str) -> AsyncIterator[Opener]:
    stores: list[OnlineStore] = []

    def open_store(clock: Clock, ttl_s: float = 60.0, bar: timedelta = BAR) -> OnlineStore:
        store = OnlineStore.open(
            *(redis_url, "simulated:1h", "v-abc", NAMES),
            clock=clock,
            interval=bar,
            fresh_bars=2.0,
            ttl_s=ttl_s,
            timeout_s=2.0,
        )
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.close()


@pytest.fixture
def symbol() -> str:
    """A symbol that no other test writes."""
    return f"T{secrets.token_hex(6).upper()}"


def window(symbol: str, event_time: datetime = NOON, nft: ValueTime | None = None) -> FeatureWindow:
    own = {} if nft is None else {"nft_floor": nft}
    return FeatureWindow(symbol, event_time, NAMES, np.array([[1.0, 2.0]]), own)


async def every_way(store: OnlineStore, symbol: str) -> list[FeatureReading]:
    readings = await store.get_many([symbol]), await store.get_windows([symbol])
    return [await store.get(symbol), *(found[symbol] for found in readings)]


async def restamp(client: Redis, symbol: str, by_s: float) -> None:
    """As if the server's clock had stood `by_s` elsewhere when it wrote."""
    for kind in ("vector", "window"):
        key = f"{symbol}:features:{kind}"
        data = await client.get(key)
        stamp_us = struct.unpack_from("<q", data)[0] + round(by_s * 1e6)
        await client.set(key, struct.pack("<2q", stamp_us, -stamp_us) + data[16:], keepttl=True)


@pytest.mark.parametrize("ttl_s", [0.0004, 0.25, 0.3])
async def test_a_life_of_a_fraction_of_a_second_ends_with_it(
    opener: Opener, client: Redis, symbol: str, ttl_s: float
) -> None:
    store = opener(ManualClock(NOON), ttl_s)
    sent_s = time.monotonic()
    assert await store.write_features([window(symbol)]) == (symbol,)
    written_s = time.monotonic()
    # Even where the server keeps what is over.
    for kind in ("vector", "window"):
        await client.persist(f"{symbol}:features:{kind}")
    over: list[FeatureReading] = []
    while len(over) < 3:
        asked_s = time.monotonic()
        readings = await every_way(store, symbol)
        over = [reading for reading in readings if reading.freshness is Freshness.MISSING]
        # Two questions about the server's clock may have taken their time.
        assert not over or time.monotonic() - sent_s > ttl_s - 0.1
        assert asked_s - written_s < ttl_s or len(over) == len(readings)


@pytest.mark.parametrize("ahead_s", [-0.15, 0.0, 0.15])
@pytest.mark.parametrize("whose", ["reader", "writer"])
async def test_a_clock_that_is_off_makes_nothing_stale_fresh(
    opener: Opener, symbol: str, started_s: float, whose: str, ahead_s: float
) -> None:
    right, off = RunningClock(started_s), RunningClock(started_s, ahead_s)
    writer = opener(off if whose == "writer" else right)
    reader = opener(off if whose == "reader" else right)
    event_time = right.now()
    await writer.write_features([window(symbol, event_time)])
    seen = set()
    for _ in range(40):
        before = right.now()
        for reading in await every_way(reader, symbol):
            seen.add(reading.freshness)
            assert reading.age_s is not None
            # Never younger than it is, by either's clock.
            assert reading.age_s >= (before - event_time).total_seconds() - 1e-5
            assert reading.age_s <= (right.now() - event_time).total_seconds() + max(0.0, ahead_s) + 0.1
            if before - event_time > 2 * BAR:
                assert reading.freshness is Freshness.STALE
        await asyncio.sleep(0.015)
    assert seen >= {Freshness.STALE}


@pytest.mark.parametrize("ahead_s", [-3600.0, -1.0, 3600.0])
async def test_a_reader_whose_clock_is_far_off_calls_nothing_fresh_that_is_not(
    opener: Opener, symbol: str, started_s: float, ahead_s: float
) -> None:
    await opener(RunningClock(started_s)).write_features([window(symbol, NOON)])
    for reading in await every_way(opener(RunningClock(started_s, ahead_s)), symbol):
        # Behind by more than a bar, it sees a vector of the future; ahead, an old one.
        assert reading.freshness is (Freshness.MISSING if ahead_s < 0 else Freshness.STALE)


async def test_what_was_stamped_ahead_of_the_servers_clock_is_missing(
    opener: Opener, client: Redis, symbol: str
) -> None:
    store = opener(ManualClock(NOON))
    await store.write_features([window(symbol)])
    await restamp(client, symbol, by_s=5.0)
    assert {r.freshness for r in await every_way(store, symbol)} == {Freshness.MISSING}
    # The next write heals it.
    await store.write_features([window(symbol)])
    assert {r.freshness for r in await every_way(store, symbol)} == {Freshness.FRESH}


async def test_a_server_whose_clock_was_set_back_is_asked_again(
    opener: Opener, client: Redis, symbol: str
) -> None:
    store = opener(ManualClock(NOON))
    await store.write_features([window(symbol)])
    await store.get(symbol)
    # What this reader knows of the server's clock is an hour late now.
    store._server_time._server_us -= 3_600_000_000
    assert {r.freshness for r in await every_way(store, symbol)} == {Freshness.FRESH}


async def test_a_writer_that_thinks_the_servers_clock_is_late_learns_better(
    opener: Opener, client: Redis, symbol: str
) -> None:
    writer, reader = opener(ManualClock(NOON)), opener(ManualClock(NOON))
    await writer.write_features([window(symbol)])
    writer._server_time._server_us -= 3_600_000_000
    # Its stamp is old, and so what it writes is: but not for longer than one write.
    for freshness in (Freshness.MISSING, Freshness.FRESH):
        await writer.write_features([window(symbol)])
        assert {r.freshness for r in await every_way(reader, symbol)} == {freshness}


async def test_the_life_of_a_vector_counts_on_the_servers_clock(
    opener: Opener, client: Redis, symbol: str
) -> None:
    store = opener(ManualClock(NOON), ttl_s=60.0)
    await store.write_features([window(symbol)])
    for by_s, freshness in ((-59.0, Freshness.FRESH), (-1.5, Freshness.MISSING)):
        await restamp(client, symbol, by_s)
        assert {r.freshness for r in await every_way(store, symbol)} == {freshness}


async def test_a_value_with_a_life_of_its_own_ends_before_the_others(
    opener: Opener, symbol: str, started_s: float
) -> None:
    clock = RunningClock(started_s)
    store = opener(clock, bar=timedelta(hours=1))
    source_time = clock.now()
    own = ValueTime(source_time, timedelta(seconds=0.6))
    await store.write_features([window(symbol, nft=own)])
    seen = set()
    while clock.now() - source_time < timedelta(seconds=0.7):
        asked = clock.now() - source_time
        for reading in await every_way(store, symbol):
            value = reading.value("nft_floor")
            seen.add(value.freshness)
            if asked >= timedelta(seconds=0.6):
                assert value == MISSING
                assert set(reading.values) == {"ret_1"}
            assert reading.value("ret_1").freshness is Freshness.FRESH
        # To write the same again does not make it any younger.
        await store.write_features([window(symbol, nft=own)])
        await asyncio.sleep(0.02)
    assert seen == {Freshness.FRESH, Freshness.MISSING}


async def test_in_the_hash_such_a_value_ends_by_itself_or_says_when(
    opener: Opener, client: Redis, symbol: str, started_s: float
) -> None:
    clock = RunningClock(started_s)
    store = opener(clock, bar=timedelta(hours=1))
    key = f"{symbol}:features"
    await store.write_features([window(symbol, nft=ValueTime(clock.now(), timedelta(seconds=0.6)))])
    seconds, microseconds = await client.time()
    ends_at = float(await client.hget(key, "_expires_at:nft_floor"))
    assert 0.0 < ends_at - (seconds + microseconds / 1e6) <= 0.6
    assert await client.hget(key, "nft_floor") == b"2.0"
    await asyncio.sleep(0.65)
    has_field_ttl = (await ServerCapabilities(client).get()).has_field_ttl
    assert bool(await client.hexists(key, "nft_floor")) is not has_field_ttl
    assert await client.hget(key, "ret_1") == b"1.0"
    # What was over when it was written does not come into it at all.
    await store.write_features([window(symbol, nft=ValueTime(NOON - timedelta(hours=1), timedelta(hours=1)))])
    assert not await client.hexists(key, "nft_floor")
    assert not await client.hexists(key, "_expires_at:nft_floor")

"""What a replica holds in memory is never older than it may be, and is read once for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from levibot.errors import StoreUnavailable
from levibot.serving.signal_cache import SignalCache
from levibot.stores.signals import Signal


def signal(number: int) -> Signal:
    as_of = datetime(2024, 5, 1, 12, number, tzinfo=UTC)
    return Signal("BTCUSDT", as_of, 0.6, 0.1, "v1.0.0", "view", "market", "simulated")


def held(cache: SignalCache[Mapping[str, Signal | None]]) -> Signal | None:
    return (cache.held() or {}).get("BTCUSDT")


class Store:
    """Has a newer signal at each read. waits: until when a read takes; fails: whether it raises."""

    def __init__(self) -> None:
        self.n_read = 0
        self.waits = asyncio.Event()
        self.waits.set()
        self.asked = asyncio.Event()
        self.fails = False

    async def read(self) -> Mapping[str, Signal | None]:
        self.n_read += 1
        self.asked.set()
        await self.waits.wait()
        if self.fails:
            raise StoreUnavailable("Redis is away.")
        return {"BTCUSDT": signal(self.n_read), "ETHUSDT": None}


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_what_was_read_is_held_for_its_life_and_no_longer() -> None:
    store, clock = Store(), Clock()
    cache = SignalCache(store.read, lives_s=0.1, monotonic=clock)
    assert cache.held() is None
    assert await cache.read() == {"BTCUSDT": signal(1), "ETHUSDT": None} == cache.held()
    clock.now_s += 0.04
    assert held(cache) == signal(1)
    clock.now_s += 0.06
    assert cache.held() is None
    assert (await cache.read())["BTCUSDT"] == signal(2)
    assert store.n_read == 2


async def test_under_steady_questions_the_next_read_begins_before_the_last_one_has_ended() -> None:
    store, clock = Store(), Clock()
    cache = SignalCache(store.read, lives_s=0.1, monotonic=clock)
    await cache.read()
    store.asked.clear()
    clock.now_s += 0.06
    assert [held(cache) for _ in range(2)] == [signal(1)] * 2
    await store.asked.wait()
    await asyncio.sleep(0)
    assert held(cache) == signal(2)
    assert store.n_read == 2


async def test_it_is_held_while_the_next_read_takes_its_time_and_no_longer_than_ten_lives() -> None:
    store, clock = Store(), Clock()
    cache = SignalCache(store.read, lives_s=0.1, monotonic=clock)
    await cache.read()
    store.waits.clear()
    store.asked.clear()
    clock.now_s += 0.06
    assert held(cache) == signal(1)
    await store.asked.wait()
    clock.now_s += 0.9
    assert held(cache) == signal(1)
    clock.now_s += 0.05
    assert cache.held() is None
    store.waits.set()
    assert await cache.read() is not None
    assert held(cache) is None


async def test_its_age_counts_from_before_the_read() -> None:
    store, clock = Store(), Clock()
    cache = SignalCache(store.read, lives_s=0.1, monotonic=clock)
    store.waits.clear()
    reading = asyncio.create_task(cache.read())
    await store.asked.wait()
    clock.now_s += 0.2
    store.waits.set()
    assert (await reading)["BTCUSDT"] == signal(1)
    assert cache.held() is None


async def test_those_who_wait_share_one_read_and_one_who_leaves_does_not_end_it() -> None:
    store = Store()
    cache = SignalCache(store.read, lives_s=60.0)
    store.waits.clear()
    first, second = asyncio.create_task(cache.read()), asyncio.create_task(cache.read())
    await store.asked.wait()
    first.cancel()
    await asyncio.sleep(0)
    store.waits.set()
    assert (await second)["BTCUSDT"] == signal(1)
    assert store.n_read == 1


async def test_a_read_that_fails_holds_nothing_and_the_next_one_is_another() -> None:
    store, clock = Store(), Clock()
    cache = SignalCache(store.read, lives_s=0.1, monotonic=clock)
    await cache.read()
    clock.now_s += 0.2
    store.fails = True
    with pytest.raises(StoreUnavailable):
        await cache.read()
    assert cache.held() is None
    store.fails = False
    assert (await cache.read())["BTCUSDT"] == signal(3)


async def test_what_is_forgotten_is_not_held_and_a_read_that_is_under_way_ends_with_it() -> None:
    store = Store()
    cache = SignalCache(store.read, lives_s=60.0)
    await cache.read()
    cache.forget()
    assert cache.held() is None
    store.waits.clear()
    reading = asyncio.create_task(cache.read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_life_of_zero_holds_nothing() -> None:
    cache = SignalCache(Store().read, lives_s=0.0)
    await cache.read()
    assert cache.held() is None

"""The cache in one process, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from levibot.clock import ManualClock
from levibot.errors import DataError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.stores.cache import Cached, cached
from levibot.telemetry.metrics import Metrics
from tests.levibot.stores.cache_parts import Build, Source, builder, counted

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def build(clock: ManualClock, metrics: Metrics) -> Build:
    return builder(clock, metrics)


# This process alone


async def test_a_value_is_loaded_once_and_then_at_hand(
    build: Build, clock: ManualClock, metrics: Metrics
) -> None:
    cache, source = build(l1_ttl_s=60.0), Source({"price": 1.5})
    assert await cache.get_or_load("k", source.load) == Cached({"price": 1.5}, "loader", 0.0)
    clock.advance(59.0)
    assert await cache.get_or_load("k", source.load) == Cached({"price": 1.5}, "l1", 59.0)
    assert source.n_calls == 1
    assert counted(metrics, "hits", cache, "l1") == 1
    assert counted(metrics, "misses", cache, "l1") == 1
    clock.advance(1.0)
    source.value = {"price": 2.0}
    assert await cache.get_or_load("k", source.load) == Cached({"price": 2.0}, "loader", 0.0)


async def test_concurrent_misses_are_one_load(build: Build) -> None:
    cache, source = build(), Source("value")
    source.takes.clear()
    asking = [asyncio.create_task(cache.get_or_load("k", source.load)) for _ in range(100)]
    await asyncio.sleep(0.01)
    source.takes.set()
    assert {answer.value for answer in await asyncio.gather(*asking)} == {"value"}
    assert source.n_calls == 1
    assert cache._loading == {}


async def test_concurrent_misses_share_a_failure_and_the_next_call_tries_again(build: Build) -> None:
    cache, source = build(), Source(SourceUnavailable("away"))
    answers = await asyncio.gather(
        *(cache.get_or_load("k", source.load) for _ in range(10)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [SourceUnavailable] * 10
    assert source.n_calls == 1
    source.value = "back"
    assert (await cache.get_or_load("k", source.load)).value == "back"


async def test_a_caller_that_goes_away_takes_nothing_from_the_others(build: Build) -> None:
    cache, source = build(), Source("value")
    source.takes.clear()
    first = asyncio.create_task(cache.get_or_load("k", source.load))
    second = asyncio.create_task(cache.get_or_load("k", source.load))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.takes.set()
    assert (await second).value == "value"
    assert source.n_calls == 1


async def test_a_failed_load_that_nobody_waits_for_is_no_noise(build: Build) -> None:
    cache, source = build(), Source(SourceUnavailable("away"))
    source.takes.clear()
    only = asyncio.create_task(cache.get_or_load("k", source.load))
    await asyncio.sleep(0.01)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    source.takes.set()
    await asyncio.sleep(0.01)
    assert cache._loading == {}


async def test_that_there_is_none_is_remembered_for_its_own_shorter_time(
    build: Build, clock: ManualClock
) -> None:
    cache, source = build(l1_ttl_s=60.0, negative_ttl_s=5.0), Source(None)
    for _ in range(3):
        assert (await cache.get_or_load("k", source.load)).value is None
    assert source.n_calls == 1
    clock.advance(5.0)
    source.value = "now there is one"
    assert (await cache.get_or_load("k", source.load)).value == "now there is one"


async def test_the_least_recently_used_value_makes_room(build: Build) -> None:
    cache, source = build(l1_entries=3), Source("value")
    for key in ("a", "b", "c", "a", "d"):
        await cache.get_or_load(key, source.load)
    assert list(cache._l1) == ["c", "a", "d"]
    assert source.n_calls == 4


async def test_any_number_of_keys_takes_bounded_room(build: Build) -> None:
    cache, source = build(), Source("value")
    for n in range(1000):
        await cache.get_or_load(str(n), source.load)
    assert (len(cache._l1), len(cache._loading)) == (100, 0)


async def test_values_loaded_together_do_not_end_together(build: Build, clock: ManualClock) -> None:
    cache, source = build(l1_ttl_s=60.0, jitter=0.5, rng=random.Random(7)), Source("value")
    for n in range(50):
        await cache.get_or_load(str(n), source.load)
    ends = {(entry.fresh_until - NOON).total_seconds() for entry in cache._l1.values()}
    assert len(ends) == 50
    assert 30.0 <= min(ends) < 40.0 < 50.0 < max(ends) <= 60.0


async def test_a_clock_set_back_makes_nothing_fresh_again(build: Build, clock: ManualClock) -> None:
    cache, source = build(l1_ttl_s=60.0), Source("value")
    await cache.get_or_load("k", source.load)
    clock.advance(-3600.0)
    assert (await cache.get_or_load("k", source.load)).tier == "loader"


# Stale while the loader fails


async def test_an_old_value_is_served_while_the_loader_fails_and_says_so(
    build: Build, clock: ManualClock
) -> None:
    cache, source = build(grace_s=300.0), Source("old")
    await cache.get_or_load("k", source.load)
    source.value = SourceUnavailable("The exchange does not answer.")
    clock.advance(359.0)
    answer = await cache.get_or_load("k", source.load)
    assert answer == Cached("old", "l1", 359.0, is_stale=True, problem="The exchange does not answer.")
    # Each call asks the loader: nothing stale is ever kept as if it were fresh.
    await cache.get_or_load("k", source.load)
    assert source.n_calls == 3
    clock.advance(1.0)
    with pytest.raises(SourceUnavailable, match="does not answer"):
        await cache.get_or_load("k", source.load)
    source.value = "new"
    assert await cache.get_or_load("k", source.load) == Cached("new", "loader", 0.0)


async def test_a_wrong_question_is_not_answered_from_the_past(build: Build, clock: ManualClock) -> None:
    cache, source = build(), Source("old")
    await cache.get_or_load("k", source.load)
    clock.advance(61.0)
    source.value = UnknownSymbol("There is no such symbol.")
    with pytest.raises(UnknownSymbol):
        await cache.get_or_load("k", source.load)
    # Bad data is the source's fault: what is old is better.
    source.value = DataError("A price below zero.")
    assert (await cache.get_or_load("k", source.load)).is_stale


async def test_an_unforeseen_error_passes(build: Build, clock: ManualClock) -> None:
    cache, source = build(), Source("old")
    await cache.get_or_load("k", source.load)
    clock.advance(61.0)
    source.value = ZeroDivisionError("slip")
    with pytest.raises(ZeroDivisionError):
        await cache.get_or_load("k", source.load)


# The decorator and its limits


async def test_a_decorated_function_goes_through_the_cache(build: Build) -> None:
    cache, n_calls = build(), 0

    @cached(cache, key=lambda symbol, horizon=1: f"{symbol}:{horizon}")
    async def signal_of(symbol: str, horizon: int = 1) -> dict[str, Any]:
        """The signal."""
        nonlocal n_calls
        n_calls += 1
        return {"symbol": symbol, "horizon": horizon}

    assert await signal_of("BTCUSDT") == Cached({"symbol": "BTCUSDT", "horizon": 1}, "loader", 0.0)
    assert (await signal_of("BTCUSDT", 1)).tier == "l1"
    assert (await signal_of("BTCUSDT", horizon=2)).value == {"symbol": "BTCUSDT", "horizon": 2}
    assert (n_calls, signal_of.__name__, signal_of.__doc__) == (2, "signal_of", "The signal.")


@pytest.mark.parametrize(
    "wrong",
    [{"l1_entries": 0}, {"jitter": 1.0}, {"l1_ttl_s": 0.0}, {"l2_ttl_s": -1.0}, {"negative_ttl_s": 0.0}],
)
def test_limits_that_cannot_be_are_refused(build: Build, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="The cache"):
        build(**wrong)

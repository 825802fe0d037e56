"""The cache on a real server, on a clock that the test moves, and with servers that are killed or frozen."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from structlog.testing import capture_logs

from levibot.clock import ManualClock
from levibot.errors import DataError, SourceUnavailable, StoreUnavailable, UnknownSymbol, UsageError
from levibot.stores.cache import BYTES, JSON, Cache, Cached, cached
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer
from levibot.telemetry.metrics import Metrics

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)

Build = Callable[..., Cache[Any]]


class Source:
    """A loader: counts its calls, and answers what it is told to."""

    def __init__(self, value: object = None) -> None:
        self.value = value
        self.n_calls = 0
        self.is_asked = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def load(self) -> Any:
        self.n_calls += 1
        self.is_asked.set()
        await self.takes.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    own = open_redis(redis_url, timeout_s=5.0)
    yield own
    await own.aclose()


@pytest.fixture
def build(clock: ManualClock, metrics: Metrics) -> Build:
    """A cache without jitter under a name of the test's own; two of them are like two processes."""
    name = f"test-{secrets.token_hex(6)}"

    def build_cache(client: Redis | None = None, **options: Any) -> Cache[Any]:
        return Cache(
            options.pop("name", name),
            client,
            **{"clock": clock, "jitter": 0.0, "metrics": metrics, "redis_timeout_s": 5.0} | options,
        )

    return build_cache


def counted(metrics: Metrics, what: str, cache: Cache[Any], tier: str) -> float:
    labels = {"cache": cache.name, "tier": tier}
    return metrics.registry.get_sample_value(f"levibot_cache_{what}_total", labels) or 0.0


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


# Redis


@pytest.mark.stores
async def test_another_process_finds_the_value_in_redis_with_its_age(
    build: Build, client: Redis, clock: ManualClock, metrics: Metrics
) -> None:
    one, other, source = build(client), build(client), Source([1, "two", None])
    await one.get_or_load("k", source.load)
    clock.advance(20.0)
    assert await other.get_or_load("k", source.load) == Cached([1, "two", None], "l2", 20.0)
    assert await other.get_or_load("k", source.load) == Cached([1, "two", None], "l1", 20.0)
    # What is at hand is never fresh for longer than what is stored.
    clock.advance(40.0)
    assert (await other.get_or_load("k", source.load)).tier == "loader"
    assert source.n_calls == 2
    assert (counted(metrics, "hits", one, "l2"), counted(metrics, "misses", one, "l2")) == (1, 2)


@pytest.mark.stores
async def test_that_there_is_none_is_told_to_other_processes(build: Build, client: Redis) -> None:
    source = Source(None)
    await build(client).get_or_load("k", source.load)
    assert await build(client).get_or_load("k", source.load) == Cached(None, "l2", 0.0)
    assert source.n_calls == 1


@pytest.mark.stores
async def test_an_old_value_of_another_process_is_served_while_the_loader_fails(
    build: Build, client: Redis, clock: ManualClock
) -> None:
    source = Source("old")
    await build(client).get_or_load("k", source.load)
    clock.advance(100.0)
    source.value = SourceUnavailable("away")
    answer = await build(client).get_or_load("k", source.load)
    assert answer == Cached("old", "l2", 100.0, is_stale=True, problem="away")


@pytest.mark.stores
async def test_every_key_in_redis_ends(build: Build, client: Redis) -> None:
    cache = build(client, l2_ttl_s=60.0, grace_s=300.0)
    await cache.get_or_load("k", Source("value").load)
    assert 300_000 < await client.pttl(f"cache:{cache.name}:k") <= 360_000


@pytest.mark.stores
async def test_an_invalidated_value_is_loaded_again_everywhere(
    build: Build, client: Redis, clock: ManualClock
) -> None:
    one, other, source = build(client, l1_ttl_s=5.0), build(client, l1_ttl_s=5.0), Source("old")
    for cache in (one, other):
        await cache.get_or_load("k", source.load)
    source.value = "new"
    await one.invalidate("k")
    assert (await one.get_or_load("k", source.load)).value == "new"
    assert (await other.get_or_load("k", source.load)).value == "old"
    clock.advance(5.0)
    assert await other.get_or_load("k", source.load) == Cached("new", "l2", 5.0)


@pytest.mark.stores
async def test_a_load_from_before_an_invalidation_is_not_kept(build: Build, client: Redis) -> None:
    cache, source = build(client), Source("old")
    source.takes.clear()
    early = asyncio.create_task(cache.get_or_load("k", source.load))
    await asyncio.wait_for(source.is_asked.wait(), 5.0)
    await cache.invalidate("k")
    late_source = Source("new")
    assert (await cache.get_or_load("k", late_source.load)).value == "new"
    source.takes.set()
    assert (await early).value == "old"
    assert (await cache.get_or_load("k", late_source.load)).value == "new"
    assert (await build(client).get_or_load("k", late_source.load)).value == "new"


@pytest.mark.stores
async def test_what_somebody_else_has_written_there_is_loaded_anew(build: Build, client: Redis) -> None:
    unread = (b"", b"short", b"\x00" * 16 + b"\x01no json", b"\x7f" * 40)
    with capture_logs() as logs:
        for garbage in unread:
            cache = build(client)
            await client.set(f"cache:{cache.name}:k", garbage, px=60_000)
            assert (await cache.get_or_load("k", Source("good").load)).value == "good"
    assert [line["event"] for line in logs] == ["a cached value cannot be read"] * len(unread)


@pytest.mark.stores
async def test_bytes_are_kept_as_they_are(build: Build, client: Redis) -> None:
    value = bytes(range(256))
    await build(client, codec=BYTES).get_or_load("k", Source(value).load)
    assert await build(client, codec=BYTES).get_or_load("k", Source().load) == Cached(value, "l2", 0.0)


@pytest.mark.stores
async def test_which_tier_answers_does_not_change_the_value(build: Build, client: Redis) -> None:
    source = Source({"pair": (1, 2)})
    one, other = build(client), build(client)
    answers = [await cache.get_or_load("k", source.load) for cache in (one, one, other)]
    assert [answer.tier for answer in answers] == ["loader", "l1", "l2"]
    assert [answer.value for answer in answers] == [{"pair": [1, 2]}] * 3


@pytest.mark.stores
async def test_a_value_that_the_codec_refuses_is_the_callers_error(build: Build, client: Redis) -> None:
    with pytest.raises(TypeError):
        await build(client).get_or_load("k", Source({1, 2}).load)
    with pytest.raises(ValueError, match="JSON compliant"):
        await build(client, codec=JSON).get_or_load("k", Source(float("nan")).load)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of this test's own, which may be killed."""
    own = ValkeyServer(tmp_path / "redis", tmp_path / "redis.log", free_port(), "secret")
    own.start()
    own.wait()
    yield own
    own.stop()


@pytest.mark.stores
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_without_redis_the_cache_goes_on_and_waits_for_nothing(
    build: Build, server: ValkeyServer, fault: str
) -> None:
    client = open_redis(server.url, timeout_s=5.0)
    cache, source = build(client, redis_timeout_s=0.2), Source("value")
    await cache.get_or_load("before", source.load)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    try:
        for n in range(4):  # opens the circuit, one time-out a call at most
            assert (await cache.get_or_load(f"first {n}", source.load)).tier == "loader"
        started = time.monotonic()
        for n in range(200):
            assert (await cache.get_or_load(f"k{n}", source.load)).tier == "loader"
        # 400 time-outs of 0.2 s would be 80 s; the trial after the reset takes one.
        assert time.monotonic() - started < 10.0
        assert (await cache.get_or_load("k199", source.load)).tier == "l1"
        with pytest.raises(StoreUnavailable):
            await cache.invalidate("k199")
        assert "k199" not in cache._l1
    finally:
        if fault == "frozen":
            os.kill(server.process.pid, signal.SIGCONT)
        await client.aclose()


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

"""The cache and its second tier: a real server, which is killed and frozen too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from structlog.testing import capture_logs

from levibot.clock import ManualClock
from levibot.errors import SourceUnavailable, StoreUnavailable
from levibot.stores.cache import BYTES, JSON, Cached
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer
from levibot.telemetry.metrics import Metrics
from tests.levibot.stores.cache_parts import Build, Source, builder, counted

pytestmark = pytest.mark.stores

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


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    own = open_redis(redis_url, timeout_s=5.0)
    yield own
    await own.aclose()


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


async def test_that_there_is_none_is_told_to_other_processes(build: Build, client: Redis) -> None:
    source = Source(None)
    await build(client).get_or_load("k", source.load)
    assert await build(client).get_or_load("k", source.load) == Cached(None, "l2", 0.0)
    assert source.n_calls == 1


async def test_an_old_value_of_another_process_is_served_while_the_loader_fails(
    build: Build, client: Redis, clock: ManualClock
) -> None:
    source = Source("old")
    await build(client).get_or_load("k", source.load)
    clock.advance(100.0)
    source.value = SourceUnavailable("away")
    answer = await build(client).get_or_load("k", source.load)
    assert answer == Cached("old", "l2", 100.0, is_stale=True, problem="away")


async def test_every_key_in_redis_ends(build: Build, client: Redis) -> None:
    cache = build(client, l2_ttl_s=60.0, grace_s=300.0)
    await cache.get_or_load("k", Source("value").load)
    assert 300_000 < await client.pttl(f"cache:{cache.name}:k") <= 360_000


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


async def test_what_somebody_else_has_written_there_is_loaded_anew(build: Build, client: Redis) -> None:
    unread = (b"", b"short", b"\x00" * 16 + b"\x01no json", b"\x7f" * 40)
    with capture_logs() as logs:
        for garbage in unread:
            cache = build(client)
            await client.set(f"cache:{cache.name}:k", garbage, px=60_000)
            assert (await cache.get_or_load("k", Source("good").load)).value == "good"
    assert [line["event"] for line in logs] == ["a cached value cannot be read"] * len(unread)


async def test_bytes_are_kept_as_they_are(build: Build, client: Redis) -> None:
    value = bytes(range(256))
    await build(client, codec=BYTES).get_or_load("k", Source(value).load)
    assert await build(client, codec=BYTES).get_or_load("k", Source().load) == Cached(value, "l2", 0.0)


async def test_which_tier_answers_does_not_change_the_value(build: Build, client: Redis) -> None:
    source = Source({"pair": (1, 2)})
    one, other = build(client), build(client)
    answers = [await cache.get_or_load("k", source.load) for cache in (one, one, other)]
    assert [answer.tier for answer in answers] == ["loader", "l1", "l2"]
    assert [answer.value for answer in answers] == [{"pair": [1, 2]}] * 3


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

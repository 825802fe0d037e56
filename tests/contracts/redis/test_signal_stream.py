"""New signals as they come: in order, from where a follower was, and never lost without a word."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.errors import NotReady, RateLimited, UsageError
from levibot.serving import signal_feed
from levibot.serving.signal_feed import Gap, SignalFeed
from levibot.stores import online_signals
from levibot.stores.online import OnlineStore, Signal
from levibot.stores.redis import open_redis
from levibot.stores.signal_stream import SIGNALS, SignalStream, Told, check_id

from .test_online_signals import HOUR, NOON, open_store

pytestmark = pytest.mark.stores


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[OnlineStore]:
    """A store of a market of this test alone, whose clock runs behind none of its signals."""
    store = open_store(redis_url, ManualClock(NOON + timedelta(days=365)), secrets.token_hex(6))
    yield store
    await store.close()


@pytest.fixture
async def stream(redis_url: str, store: OnlineStore) -> AsyncIterator[SignalStream]:
    stream = SignalStream(open_redis(redis_url, timeout_s=2.0), store.market_id, store.view_version)
    yield stream
    await stream.close()


@pytest.fixture
def feed(stream: SignalStream) -> SignalFeed:
    return SignalFeed(stream)


def signals_of(store: OnlineStore, n: int, symbol: str = "") -> list[Signal]:
    """One after the other, of a symbol that no other test writes."""
    first = Signal(
        symbol or f"S{secrets.token_hex(4).upper()}",
        *(NOON, 0.5, 0.1, "v1.0.0", store.view_version, store.market_id, "simulated"),
    )
    return [replace(first, as_of=NOON + hour * HOUR) for hour in range(n)]


async def take(feed: SignalFeed, n: int, after: str | None) -> list[Told | Gap]:
    """The next `n` that a follower is told."""
    found: list[Told | Gap] = []
    with feed.place("key"):
        async with asyncio.timeout(10.0):
            async for told in feed.follow(after, 10.0):
                found.append(told)
                if len(found) == n:
                    break
    return found


def told_signals(found: list[Told | Gap]) -> list[Signal]:
    return [told.signal for told in found if isinstance(told, Told)]


async def test_every_new_signal_is_told_once_and_in_order(store: OnlineStore, feed: SignalFeed) -> None:
    signals = signals_of(store, 5)
    following = asyncio.create_task(take(feed, 5, None))
    await asyncio.sleep(0.2)
    for signal in signals:
        await store.write_signals([signal], ttl_s=30.0)
        # The same again, and an older one: both change nothing.
        await store.write_signals([signal], ttl_s=30.0)
        await store.write_signals([signals[0]], ttl_s=30.0)
        await store.renew_signals([signal], ttl_s=30.0)

    assert told_signals(await following) == signals


async def test_a_cross_section_is_told_whole(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed
) -> None:
    before = await stream.newest_id()
    section = [*signals_of(store, 1), *signals_of(store, 1), *signals_of(store, 1)]
    await store.write_signals(section, ttl_s=30.0)

    assert told_signals(await take(feed, 3, before)) == section


async def test_who_comes_back_goes_on_where_it_was_on_any_replica(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed
) -> None:
    before = await stream.newest_id()
    signals = signals_of(store, 250)
    for signal in signals[:120]:
        await store.write_signals([signal], ttl_s=30.0)
    first = await take(feed, 70, before)
    for signal in signals[120:]:
        await store.write_signals([signal], ttl_s=30.0)
    assert isinstance(first[-1], Told)
    rest = await take(SignalFeed(stream), 180, first[-1].id)

    assert told_signals([*first, *rest]) == signals


async def test_what_is_not_kept_any_more_is_told(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await stream.newest_id()
    monkeypatch.setattr(online_signals, "STREAM_LENGTH", 3)
    signals = signals_of(store, 6)
    for signal in signals:
        await store.write_signals([signal], ttl_s=30.0)
    gap, *found = await take(feed, 4, before)

    assert isinstance(gap, Gap)
    assert before in gap.reason
    assert told_signals(found) == signals[3:]


async def test_a_follower_of_a_server_that_lost_all_is_told_and_goes_on(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed, redis_url: str
) -> None:
    signals = signals_of(store, 3)
    await store.write_signals([signals[0]], ttl_s=30.0)
    known = await stream.newest_id()
    async with Redis.from_url(redis_url) as redis:
        await redis.delete(SIGNALS)
    following = asyncio.create_task(take(feed, 3, known))
    await asyncio.sleep(0.2)
    for signal in signals[1:]:
        await store.write_signals([signal], ttl_s=30.0)
    gap, *found = await following

    assert isinstance(gap, Gap)
    assert told_signals(found) == signals[1:]


async def test_a_place_in_the_future_is_of_a_server_that_is_gone(
    store: OnlineStore, feed: SignalFeed
) -> None:
    await store.write_signals(signals_of(store, 1), ttl_s=30.0)
    gap, *_ = await take(feed, 1, f"{2**63}-0")

    assert isinstance(gap, Gap)


async def test_signals_of_another_market_are_not_told(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed, redis_url: str
) -> None:
    other = open_store(redis_url, ManualClock(NOON + timedelta(days=365)), "another")
    before = await stream.newest_id()
    mine = signals_of(store, 2)
    await store.write_signals(mine[:1], ttl_s=30.0)
    await other.write_signals(signals_of(other, 1), ttl_s=30.0)
    await store.write_signals(mine[1:], ttl_s=30.0)
    await other.close()

    assert told_signals(await take(feed, 2, before)) == mine


async def test_a_slow_follower_delays_no_other(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed
) -> None:
    before = await stream.newest_id()
    signals = signals_of(store, 20)
    slow = feed.follow(before, 10.0)
    with feed.place("slow"):
        await store.write_signals(signals[:1], ttl_s=30.0)
        first = await anext(slow)
        for signal in signals[1:]:
            await store.write_signals([signal], ttl_s=30.0)
        assert told_signals(await take(feed, 20, before)) == signals
        rest = [await anext(slow) for _ in signals[1:]]

    assert told_signals([first, *rest]) == signals


async def test_a_stream_ends_when_its_time_is_over_and_whole(
    store: OnlineStore, stream: SignalStream, feed: SignalFeed
) -> None:
    before = await stream.newest_id()
    signals = signals_of(store, 3)
    for signal in signals:
        await store.write_signals([signal], ttl_s=30.0)
    with feed.place("key"):
        assert told_signals([told async for told in feed.follow(before, 0.3)]) == signals


def test_places_are_bounded_a_key_and_in_all(
    feed_without_server: SignalFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hold() -> None:
        monkeypatch.setattr(signal_feed, "MOST", 3)
        monkeypatch.setattr(signal_feed, "MOST_A_KEY", 2)
        with feed_without_server.place("a"), feed_without_server.place("b"):
            with feed_without_server.place("a"):
                with pytest.raises(RateLimited, match="2 streams"), feed_without_server.place("a"):
                    pass
                with pytest.raises(NotReady, match="All 3"), feed_without_server.place("c"):
                    pass
            with feed_without_server.place("c"):
                pass

    asyncio.run(hold())


@pytest.fixture
def feed_without_server() -> SignalFeed:
    return SignalFeed(SignalStream(open_redis("redis://127.0.0.1:1", timeout_s=1.0), "market", "view"))


@pytest.mark.parametrize("text", ["", "1", "x-0", "1-", "1-2-3", f"{2**64}-0", "1" * 40 + "-0", "-1-0"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="event id"):
        check_id(text)

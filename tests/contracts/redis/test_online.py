"""Features in a real Redis-protocol server. Signals: test_online_signals.py."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.errors import DataError, StoreError, StoreUnavailable
from levibot.stores.online import FeatureWindow, Freshness, OnlineStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NAMES = ("ret_1", "vol_24", "rsi_14")
ROWS = np.array([[0.1, 0.2, 0.3], [1 / 3, np.nan, -0.0]])
Opener = Callable[..., OnlineStore]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
async def opener(redis_url: str, clock: ManualClock) -> AsyncIterator[Opener]:
    stores: list[OnlineStore] = []

    def open_store(
        market: str = "simulated:1h",
        view: str = "v-abc",
        names: tuple[str, ...] = NAMES,
        ttl_s: float = 60.0,
    ) -> OnlineStore:
        store = OnlineStore.open(
            *(redis_url, market, view, names),
            clock=clock,
            interval=HOUR,
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
def store(opener: Opener) -> OnlineStore:
    return opener()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def symbol() -> str:
    """A symbol that no other test writes."""
    return f"T{secrets.token_hex(6).upper()}"


def keys_of(symbol: str) -> tuple[str, str, str]:
    return f"{symbol}:features", f"{symbol}:features:vector", f"{symbol}:features:window"


def window(symbol: str, event_time: datetime = NOON, value: float | None = None) -> FeatureWindow:
    rows = ROWS if value is None else np.full_like(ROWS, value)
    return FeatureWindow(symbol, event_time, NAMES, rows)


async def test_features_come_back_as_written(store: OnlineStore, symbol: str) -> None:
    assert await store.write_features([window(symbol)]) == (symbol,)
    (window_of,) = (await store.get_windows([symbol])).values()
    readings = await store.get(symbol), (await store.get_many([symbol]))[symbol], window_of
    for reading, rows in zip(readings, (ROWS[-1:], ROWS[-1:], ROWS), strict=True):
        assert (reading.freshness, reading.age_s, reading.event_time) == (Freshness.FRESH, 0.0, NOON)
        assert reading.names == NAMES
        assert reading.rows is not None
        np.testing.assert_array_equal(reading.rows, rows)
        assert reading.values == {"ret_1": 1 / 3, "rsi_14": -0.0}


async def test_a_missing_value_is_no_value_and_never_zero(
    store: OnlineStore, redis: Redis, symbol: str
) -> None:
    await store.write_features([window(symbol)])
    assert set((await store.get(symbol)).values) == {"ret_1", "rsi_14"}
    assert not await redis.hexists(f"{symbol}:features", "vol_24")


async def test_the_hash_is_readable_and_exact(store: OnlineStore, redis: Redis, symbol: str) -> None:
    await store.write_features([window(symbol, NOON - HOUR)])
    fields = {k.decode(): v.decode() for k, v in (await redis.hgetall(f"{symbol}:features")).items()}
    assert float(fields.pop("ret_1")) == 1 / 3
    # The server's own clock, which is not the market's.
    assert float(fields.pop("_expires_at")) == pytest.approx((await redis.time())[0] + 60, abs=5)
    assert fields == {
        "rsi_14": "-0.0",
        "_event_time": "2024-05-01T11:00:00.000000+00:00",
        "_market": "simulated:1h",
        "_view": "v-abc",
        "_written_at": "2024-05-01T12:00:00.000000+00:00",
    }


async def test_a_value_that_went_missing_leaves_the_hash(
    store: OnlineStore, redis: Redis, symbol: str
) -> None:
    await store.write_features([window(symbol, NOON - HOUR, value=1.0)])
    await store.write_features([window(symbol, NOON)])
    assert not await redis.hexists(f"{symbol}:features", "vol_24")


async def test_all_keys_expire(opener: Opener, redis: Redis, symbol: str) -> None:
    store = opener(ttl_s=0.2)
    await store.write_features([window(symbol)])
    for key in keys_of(symbol):
        assert 0 < await redis.pttl(key) <= 200
    await asyncio.sleep(0.3)
    assert (await store.get(symbol)).freshness is Freshness.MISSING
    assert not await redis.exists(f"{symbol}:features")


@pytest.mark.parametrize(
    ("age_s", "freshness"), [(0, "FRESH"), (7200, "FRESH"), (7201, "STALE"), (720_000, "STALE")]
)
async def test_age_decides_freshness(
    store: OnlineStore, clock: ManualClock, symbol: str, age_s: int, freshness: str
) -> None:
    await store.write_features([window(symbol)])
    clock.advance(age_s)
    reading = await store.get(symbol)
    assert (reading.freshness, reading.age_s) == (freshness, age_s)
    assert reading.values


async def test_what_was_never_written_is_missing(store: OnlineStore, symbol: str) -> None:
    reading = await store.get(symbol)
    assert (reading.freshness, reading.age_s, reading.rows) == (Freshness.MISSING, None, None)
    assert reading.values == {}
    many = await store.get_many([symbol])
    assert np.isnan(many.ages_s).all()
    assert np.isnan(many.vectors).all()


@pytest.mark.parametrize("other", [{"market": "simulated:1d"}, {"view": "v-abd"}])
async def test_features_of_another_market_or_view_are_missing(
    store: OnlineStore, opener: Opener, symbol: str, other: dict[str, str]
) -> None:
    await opener(**other).write_features([window(symbol)])
    assert (await store.get(symbol)).freshness is Freshness.MISSING


async def test_the_future_within_one_bar_is_fresh_and_beyond_it_missing(
    store: OnlineStore, symbol: str
) -> None:
    near, far = symbol + "N", symbol + "F"
    await store.write_features([window(near, NOON + HOUR), window(far, NOON + HOUR * 1.01)])
    readings = await store.get_many([near, far])
    assert (readings[near].freshness, readings[near].age_s) == (Freshness.FRESH, 0.0)
    assert (readings[far].freshness, readings[far].age_s) == (Freshness.MISSING, None)


@pytest.mark.parametrize("broken", [b"", b"LVFW", b"x" * 200])
async def test_a_malformed_window_is_an_error_that_names_the_key(
    store: OnlineStore, redis: Redis, symbol: str, broken: bytes
) -> None:
    _, vector_key, window_key = keys_of(symbol)
    await redis.set(vector_key, broken, px=5000)
    await redis.set(window_key, broken, px=5000)
    with pytest.raises(StoreError, match=f"{vector_key} does not hold a feature vector"):
        await store.get(symbol)
    with pytest.raises(StoreError, match=f"{vector_key} does not hold a feature vector"):
        await store.get_many([symbol])
    with pytest.raises(StoreError, match=f"{window_key} does not hold a feature vector"):
        await store.get_windows([symbol])


@pytest.mark.parametrize("kind", ["list", "noise"])
async def test_a_write_heals_a_broken_key(store: OnlineStore, redis: Redis, symbol: str, kind: str) -> None:
    for key in keys_of(symbol):
        await (redis.rpush(key, b"1") if kind == "list" else redis.set(key, b"noise"))
    assert await store.write_features([window(symbol)]) == (symbol,)
    assert (await store.get(symbol)).freshness is Freshness.FRESH


async def test_an_older_event_does_not_replace_a_newer_one(store: OnlineStore, symbol: str) -> None:
    late, other = symbol, symbol + "B"
    await store.write_features([window(late, NOON, value=2.0)])
    written = await store.write_features([window(late, NOON - HOUR, value=1.0), window(other, NOON - HOUR)])
    assert written == (other,)
    reading = await store.get(late)
    assert (reading.event_time, reading.values["ret_1"]) == (NOON, 2.0)


async def test_the_same_event_may_be_written_again(store: OnlineStore, symbol: str) -> None:
    await store.write_features([window(symbol, value=1.0)])
    assert await store.write_features([window(symbol, value=2.0)]) == (symbol,)
    assert (await store.get(symbol)).values["ret_1"] == 2.0


async def test_the_newest_event_wins_among_concurrent_writers(opener: Opener, symbol: str) -> None:
    writers = [opener() for _ in range(4)]
    hours = list(range(-40, 1))
    random.Random(3).shuffle(hours)
    await asyncio.gather(
        *(
            writers[n % 4].write_features([window(symbol, NOON + hour * HOUR, value=float(hour))])
            for n, hour in enumerate(hours)
        )
    )
    reading = await writers[0].get(symbol)
    assert (reading.event_time, reading.values["vol_24"]) == (NOON, 0.0)


async def test_another_view_and_an_earlier_replay_do_not_block_a_writer(
    opener: Opener, clock: ManualClock, symbol: str
) -> None:
    old_view, new_view = opener(view="v-old"), opener(view="v-new")
    await old_view.write_features([window(symbol, NOON)])
    assert await new_view.write_features([window(symbol, NOON - HOUR)]) == (symbol,)
    # The replay begins again a day earlier: what the first run left lies in the new run's future.
    clock.advance(-86_400)
    assert await new_view.write_features([window(symbol, NOON - 24 * HOUR)]) == (symbol,)
    assert (await new_view.get(symbol)).freshness is Freshness.FRESH


async def test_a_reader_never_sees_two_cross_sections_mixed(opener: Opener, symbol: str) -> None:
    writer, reader = opener(), opener()
    symbols = [f"{symbol}{i}" for i in range(6)]
    await writer.write_features([window(s, NOON - 60 * HOUR) for s in symbols])

    async def write() -> None:
        for hour in range(-59, 1):
            await writer.write_features([window(s, NOON + hour * HOUR) for s in symbols])

    writing = asyncio.create_task(write())
    seen = set()
    while not writing.done():
        instants = {r.event_time for r in (await reader.get_many(symbols)).values()}
        assert len(instants) == 1
        seen |= instants
    await writing
    assert len(seen) > 1


async def test_one_broken_window_stops_the_whole_cross_section(store: OnlineStore, symbol: str) -> None:
    good, bad = window(symbol), FeatureWindow(symbol + "B", NOON, ("a",), np.array([[np.inf]]))
    with pytest.raises(DataError, match="infinite"):
        await store.write_features([good, bad])
    assert (await store.get(symbol)).freshness is Freshness.MISSING


async def test_features_of_other_names_are_refused(store: OnlineStore, symbol: str) -> None:
    other = FeatureWindow(symbol, NOON, ("ret_1",), np.ones((1, 1)))
    with pytest.raises(DataError, match="other features than view v-abc"):
        await store.write_features([window(symbol + "B"), other])


async def test_more_features_than_one_redis_call_takes(opener: Opener, redis: Redis, symbol: str) -> None:
    names = tuple(f"feature_{i}" for i in range(1500))
    store = opener(names=names)
    rows = np.arange(3000.0).reshape(2, 1500)
    await store.write_features([FeatureWindow(symbol, NOON, names, rows)])
    assert await redis.hlen(f"{symbol}:features") == 1505
    assert await redis.hget(f"{symbol}:features", "feature_1499") == b"2999.0"


async def test_no_symbols_are_no_question(store: OnlineStore) -> None:
    assert await store.write_features([]) == ()
    assert dict(await store.get_many([])) == {}
    assert await store.get_windows([]) == {}


async def test_ping_takes_time(store: OnlineStore) -> None:
    assert await store.ping() > 0.0


async def test_a_server_that_is_not_there_is_unavailable(clock: ManualClock) -> None:
    store = OnlineStore.open(
        *("redis://127.0.0.1:1", "m", "v", NAMES),
        clock=clock,
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=0.5,
    )
    with pytest.raises(StoreUnavailable, match="read features"):
        await store.get_many(["BTCUSDT"])
    await store.close()


async def test_a_server_that_does_not_answer_is_unavailable(clock: ManualClock) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.get_many()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = OnlineStore.open(
        f"redis://127.0.0.1:{port}",
        *("m", "v", NAMES),
        clock=clock,
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=0.1,
    )
    with pytest.raises(StoreUnavailable):
        await store.write_features([window("BTCUSDT")])
    await store.close()
    server.close()
